//! Big-endian numbers out of untrusted bytes, and into a buffer.

/// Reads numbers one after the other; `None` at the end of the bytes, for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteReader<'a> {
    rest: &'a [u8],
}

macro_rules! numbers {
    ($($read:ident $write:ident $number:ty;)*) => {
        impl ByteReader<'_> {
            $(
                #[inline]
                pub(crate) fn $read(&mut self) -> Option<$number> {
                    let (head, rest) = self.rest.split_first_chunk()?;
                    self.rest = rest;
                    Some(<$number>::from_be_bytes(*head))
                }
            )*
        }

        $(
            #[inline]
            pub(crate) fn $write(out: &mut Vec<u8>, value: $number) {
                out.extend_from_slice(&value.to_be_bytes());
            }
        )*
    };
}

numbers! {
    read_i16 put_i16 i16;
    read_u16 put_u16 u16;
    read_i32 put_i32 i32;
    read_u32 put_u32 u32;
    read_i64 put_i64 i64;
    read_u64 put_u64 u64;
    read_u128 put_u128 u128;
}

impl<'a> ByteReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn read_bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    /// A string after its length in 16 bits.
    pub(crate) fn read_str(&mut self) -> Option<&'a str> {
        let len = self.read_u16()?;
        std::str::from_utf8(self.read_bytes(usize::from(len))?).ok()
    }
}

/// A string after its length in 16 bits; the names written so are far shorter.
pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("names are bounded by a file system's 255 bytes");
    put_u16(out, len);
    out.extend_from_slice(text.as_bytes());
}
