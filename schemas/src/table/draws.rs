//! `draws`: what each group of steps of a job was served, so that a batch outlives the versions of
//! Delta that its ticket names.

use super::column::table;

table! { "draws" {
    /// The job. Partition column.
    job: Text,
    /// First step of the group.
    first_step: Int,
    /// Last step of the group.
    last_step: Int,
    /// The step this row is about.
    step: Int,
    /// The ticket, as JSON.
    ticket: Text,
    /// Spans in the order of the batch, packed as [`PackedSpan`] says.
    spans: Blob,
    /// Names of the shards that `spans` refers to, as a JSON array.
    shards: Text,
    /// Names of the buffers that `spans` refers to, as a JSON array.
    buffers: Text,
    /// Digest of the batch, 32 hexadecimal digits.
    digest: Text,
    /// Tokens of new text.
    new_tokens: Int,
    /// Tokens of replayed text.
    replayed_tokens: Int,
    /// When it was noted.
    time: Time,
} }

/// One span in the `spans` blob: 52 bytes, little-endian, in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedSpan {
    /// Row of the batch.
    pub row: u32,
    /// First token, in tokens of the record.
    pub first_token: u64,
    /// Tokens.
    pub tokens: u32,
    /// The record's seq.
    pub seq: u64,
    /// Index into `shards`.
    pub shard: u16,
    /// Index into `buffers`; [`PackedSpan::NEW_TEXT`] for new text.
    pub buffer: u16,
    /// Where in the row it begins.
    pub start: u32,
    /// Reserved: 0.
    pub reserved: u32,
    /// The record's id.
    pub id: [u8; 16],
}

impl PackedSpan {
    /// Bytes of one span.
    pub const SIZE: usize = 52;
    /// `buffer` of new text.
    pub const NEW_TEXT: u16 = u16::MAX;

    /// Appends it to a blob.
    pub fn pack(&self, blob: &mut Vec<u8>) {
        blob.extend_from_slice(&self.row.to_le_bytes());
        blob.extend_from_slice(&self.first_token.to_le_bytes());
        blob.extend_from_slice(&self.tokens.to_le_bytes());
        blob.extend_from_slice(&self.seq.to_le_bytes());
        blob.extend_from_slice(&self.shard.to_le_bytes());
        blob.extend_from_slice(&self.buffer.to_le_bytes());
        blob.extend_from_slice(&self.start.to_le_bytes());
        blob.extend_from_slice(&self.reserved.to_le_bytes());
        blob.extend_from_slice(&self.id);
    }

    fn unpack(bytes: &[u8; Self::SIZE]) -> Self {
        fn part<const N: usize>(bytes: &[u8; PackedSpan::SIZE], from: usize) -> [u8; N] {
            let mut part = [0; N];
            // In range: every call below ends inside the 52 bytes.
            part.copy_from_slice(&bytes[from..from + N]);
            part
        }
        Self {
            row: u32::from_le_bytes(part(bytes, 0)),
            first_token: u64::from_le_bytes(part(bytes, 4)),
            tokens: u32::from_le_bytes(part(bytes, 12)),
            seq: u64::from_le_bytes(part(bytes, 16)),
            shard: u16::from_le_bytes(part(bytes, 24)),
            buffer: u16::from_le_bytes(part(bytes, 26)),
            start: u32::from_le_bytes(part(bytes, 28)),
            reserved: u32::from_le_bytes(part(bytes, 32)),
            id: part(bytes, 36),
        }
    }
}

/// The spans in a blob; bytes beyond a whole span are ignored.
pub fn unpack_spans(blob: &[u8]) -> impl ExactSizeIterator<Item = PackedSpan> + '_ {
    blob.as_chunks::<{ PackedSpan::SIZE }>().0.iter().map(PackedSpan::unpack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back_as_they_were_packed() {
        let spans = [1_u32, 2].map(|row| PackedSpan {
            row,
            first_token: u64::MAX - 1,
            tokens: 3,
            seq: 1 << 40,
            shard: 5,
            buffer: PackedSpan::NEW_TEXT,
            start: 7,
            reserved: 0,
            id: [row as u8; 16],
        });
        let mut blob = Vec::new();
        spans.iter().for_each(|span| span.pack(&mut blob));
        assert_eq!(blob.len(), 2 * PackedSpan::SIZE);
        assert_eq!(unpack_spans(&blob).collect::<Vec<_>>(), spans);
    }
}
