//! Newtypes for the numbers that identify and order things.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare integer, as it stands on the wire and on disk.
            #[inline]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// A node of the cluster, 0 to 2147483647 (Kafka's broker id).
    NodeId(i32)
}
number! {
    /// The number of a partition within its topic, from 0.
    PartitionIndex(i32)
}
number! {
    /// A record's place in a partition, from 0.
    Offset(i64)
}
number! {
    /// Counts the leaders of one partition; stamped into every batch (KIP-101).
    LeaderEpoch(i32)
}
number! {
    /// Counts the changes of one partition's state in the metadata log (KIP-497).
    PartitionEpoch(i32)
}
number! {
    /// One registration of a broker with the controller (KIP-631).
    BrokerEpoch(i64)
}
number! {
    /// An idempotent or transactional producer (KIP-98).
    ProducerId(i64)
}
number! {
    /// One incarnation of a producer id (KIP-98).
    ProducerEpoch(i16)
}
number! {
    /// A Raft term (Raft, section 5.1).
    Term(u64)
}
number! {
    /// A place in the Raft log (Raft, section 5.3).
    LogIndex(u64)
}

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Self = Self(0);

    /// The offset `count` places on, or `None` where that is no longer an offset.
    #[inline]
    pub const fn checked_add(self, count: i64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The offset after this one; saturates at the last that exists.
    #[inline]
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl LeaderEpoch {
    /// "No epoch known", as Kafka writes it.
    pub const NONE: Self = Self(-1);
}

impl ProducerId {
    /// A batch without a producer id, as Kafka writes it.
    pub const NONE: Self = Self(-1);
}

impl ProducerEpoch {
    /// A batch without a producer epoch, as Kafka writes it.
    pub const NONE: Self = Self(-1);
}
