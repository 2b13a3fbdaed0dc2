//! The digest of a batch.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use xxhash_rust::xxh3::Xxh3;

use super::Batch;

impl Batch {
    /// xxh3-128 over the columns in schema order: "the same bytes" means the same digest.
    ///
    /// Of each column its name, then the array: its length as u64, then its cells. A number is
    /// little-endian, a truth one byte, an id its 16 bytes; a text is one byte that says whether it is
    /// there, its length as u64, its bytes. The lists of T are one array of all their values; a list of
    /// structs is, row by row, an array of structs, which is its fields' arrays one after the other.
    /// So it does not depend on how Arrow lays the buffers out.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut hasher = Xxh3::new();
        for (field, column) in self.columns().schema().fields().iter().zip(self.columns().columns()) {
            hasher.update(field.name().as_bytes());
            hash_array(&mut hasher, column);
        }
        hasher.digest128()
    }
}

/// Hashes numbers as little-endian bytes. Where the machine has them so, the buffer is hashed as it is.
fn hash_numbers<T: ArrowPrimitiveType, const N: usize>(
    hasher: &mut Xxh3,
    array: &PrimitiveArray<T>,
    bytes: fn(T::Native) -> [u8; N],
) {
    if cfg!(target_endian = "little") {
        hasher.update(array.values().inner().as_slice());
        return;
    }
    array.values().iter().for_each(|value| hasher.update(&bytes(*value)));
}

/// Hashes truths, one byte each, 64 at a time: a call costs more than the bytes of one value.
fn hash_bits(hasher: &mut Xxh3, bits: &BooleanBuffer) {
    let chunks = bits.bit_chunks();
    let mut bytes = [0_u8; 64];
    let mut hash = |word: u64, count: usize| {
        let bytes = bytes.get_mut(..count).unwrap_or_default();
        match word {
            u64::MAX => bytes.fill(1),
            0 => bytes.fill(0),
            _ => bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (word >> at & 1) as u8),
        }
        hasher.update(bytes);
    };
    chunks.iter().for_each(|word| hash(word, 64));
    hash(chunks.remainder_bits(), chunks.remainder_len());
}

fn hash_array(hasher: &mut Xxh3, array: &ArrayRef) {
    hasher.update(&(array.len() as u64).to_le_bytes());
    match array.data_type() {
        DataType::Int32 => hash_numbers(hasher, array.as_primitive::<Int32Type>(), i32::to_le_bytes),
        DataType::Int64 => hash_numbers(hasher, array.as_primitive::<Int64Type>(), i64::to_le_bytes),
        DataType::Float64 => hash_numbers(hasher, array.as_primitive::<Float64Type>(), f64::to_le_bytes),
        DataType::Boolean => hash_bits(hasher, array.as_boolean().values()),
        DataType::Utf8 => {
            for value in array.as_string::<i32>() {
                hasher.update(&[u8::from(value.is_some())]);
                let bytes = value.unwrap_or_default().as_bytes();
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            }
        }
        DataType::FixedSizeBinary(_) => {
            array.as_fixed_size_binary().iter().flatten().for_each(|v| hasher.update(v))
        }
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            let size = usize::try_from(list.value_length()).unwrap_or(0);
            hash_array(hasher, &list.values().slice(list.offset() * size, list.len() * size));
        }
        DataType::List(_) => {
            (0..array.len()).for_each(|row| hash_array(hasher, &array.as_list::<i32>().value(row)))
        }
        DataType::Struct(_) => {
            array.as_struct().columns().iter().for_each(|column| hash_array(hasher, column))
        }
        // `Batch::new` admits no other type.
        _ => {}
    }
}
