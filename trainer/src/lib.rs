//! Learns from batches: feed -> model -> loss -> step -> checkpoint -> evaluate.
