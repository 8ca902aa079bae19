//! Control records: what a broker writes into a log about a transaction.
//!
//! The key is a version and a type, the value of an end marker a version and the coordinator's epoch (KIP-98).
//! Readers take a version above the one they know as the one they know, and ignore types that they do not know.

use super::{BatchError, Record};

const KEY_VERSION: i16 = 0;
const END_TXN_VERSION: i16 = 0;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlType {
    /// Its records are to be ignored by consumers that read committed.
    Abort,
    /// Its records are visible.
    Commit,
    /// Something that only a metadata quorum of Kafka's writes, or that is newer than this code.
    Other(i16),
}

impl ControlType {
    /// The number on the wire.
    pub const fn code(self) -> i16 {
        match self {
            Self::Abort => 0,
            Self::Commit => 1,
            Self::Other(code) => code,
        }
    }

    /// The type that the key of a control record names.
    pub fn from_key(key: &[u8]) -> Result<Self, BatchError> {
        let Some((&version, rest)) = key.split_first_chunk::<2>() else {
            return Err(BatchError::Inconsistent("the key of a control record is too short"));
        };
        let Some(&code) = rest.first_chunk::<2>() else {
            return Err(BatchError::Inconsistent("the key of a control record is too short"));
        };
        if i16::from_be_bytes(version) < 0 {
            return Err(BatchError::Inconsistent("the key of a control record has a negative version"));
        }
        Ok(match i16::from_be_bytes(code) {
            0 => Self::Abort,
            1 => Self::Commit,
            other => Self::Other(other),
        })
    }

    /// The key of a control record of this type.
    pub fn to_key(self) -> [u8; 4] {
        let ([v0, v1], [c0, c1]) = (KEY_VERSION.to_be_bytes(), self.code().to_be_bytes());
        [v0, v1, c0, c1]
    }
}

/// The record that ends a transaction in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTxnMarker {
    /// [`ControlType::Commit`] or [`ControlType::Abort`].
    pub control_type: ControlType,
    /// Epoch of the transaction coordinator that wrote it; an older one is fenced by it.
    pub coordinator_epoch: i32,
}

impl EndTxnMarker {
    /// Reads the marker in a record of a control batch; `None` for control records of other types.
    pub fn from_record(record: &Record<'_>) -> Result<Option<Self>, BatchError> {
        let control_type = ControlType::from_key(record.key.unwrap_or_default())?;
        if matches!(control_type, ControlType::Other(_)) {
            return Ok(None);
        }
        let value = record.value.unwrap_or_default();
        let Some((&version, rest)) = value.split_first_chunk::<2>() else {
            return Err(BatchError::Inconsistent("the value of an end marker is too short"));
        };
        let Some(&coordinator_epoch) = rest.first_chunk::<4>() else {
            return Err(BatchError::Inconsistent("the value of an end marker is too short"));
        };
        if i16::from_be_bytes(version) < 0 {
            return Err(BatchError::Inconsistent("the value of an end marker has a negative version"));
        }
        Ok(Some(Self { control_type, coordinator_epoch: i32::from_be_bytes(coordinator_epoch) }))
    }

    /// The value of the marker's record; its key is [`ControlType::to_key`].
    pub fn to_value(self) -> [u8; 6] {
        let ([v0, v1], [e0, e1, e2, e3]) =
            (END_TXN_VERSION.to_be_bytes(), self.coordinator_epoch.to_be_bytes());
        [v0, v1, e0, e1, e2, e3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_there_and_back() {
        for code in [-1, 0, 1, 2, 6, i16::MAX] {
            let control_type = ControlType::from_key(&ControlType::Other(code).to_key()).unwrap();
            assert_eq!(control_type.code(), code);
            assert_eq!(matches!(control_type, ControlType::Other(_)), !(0..=1).contains(&code));
        }
        assert!(ControlType::from_key(&[0, 0, 0]).is_err());
        assert!(ControlType::from_key(&[]).is_err());
        assert!(ControlType::from_key(&[0xff, 0xff, 0, 0]).is_err());
        // A later version may append fields and must not take any away.
        assert_eq!(ControlType::from_key(&[0, 1, 0, 1, 9]), Ok(ControlType::Commit));
    }
}
