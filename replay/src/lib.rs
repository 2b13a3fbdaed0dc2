//! Serves batches of new and replayed text: follow -> buffer -> mix -> draw -> pack -> serve.
