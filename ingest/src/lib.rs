//! Reads streaming text into the store: source -> normalise -> dedup -> score -> write.
