//! Kafka's error codes (`org.apache.kafka.common.protocol.Errors`), as far as a reader meets them.

/// An error code of the protocol; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub i16);

/// What to make of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Asking again, perhaps another broker, may help.
    Transient,
    /// There is no such topic or partition, or it is another one of the same name.
    Gone,
    /// The offset is before the log's start or after its end.
    OutOfRange,
    /// Our login or our rights do not suffice.
    Denied,
    /// The broker does not speak what we ask.
    Unsupported,
    /// What is stored is damaged.
    Corrupt,
    /// Anything else.
    Other,
}

impl Code {
    /// No error.
    pub const NONE: Self = Self(0);

    /// Whether it is an error.
    pub fn is_error(self) -> bool {
        self != Self::NONE
    }

    pub fn kind(self) -> Kind {
        match self.0 {
            1 => Kind::OutOfRange,
            2 => Kind::Corrupt,
            3 | 100 | 103 => Kind::Gone,
            5..=9 | 13..=15 | 56 | 72 | 74 | 75 | 78 | 89 => Kind::Transient,
            29 | 30 | 31 | 33 | 34 | 58 | 65 => Kind::Denied,
            35 | 42 | 43 | 76 => Kind::Unsupported,
            _ => Kind::Other,
        }
    }

    /// Its name, for errors.
    pub fn name(self) -> String {
        let name = match self.0 {
            -1 => "UNKNOWN_SERVER_ERROR",
            1 => "OFFSET_OUT_OF_RANGE",
            2 => "CORRUPT_MESSAGE",
            3 => "UNKNOWN_TOPIC_OR_PARTITION",
            5 => "LEADER_NOT_AVAILABLE",
            6 => "NOT_LEADER_OR_FOLLOWER",
            7 => "REQUEST_TIMED_OUT",
            8 => "BROKER_NOT_AVAILABLE",
            9 => "REPLICA_NOT_AVAILABLE",
            13 => "NETWORK_EXCEPTION",
            17 => "INVALID_TOPIC_EXCEPTION",
            29 => "TOPIC_AUTHORIZATION_FAILED",
            31 => "CLUSTER_AUTHORIZATION_FAILED",
            33 => "UNSUPPORTED_SASL_MECHANISM",
            34 => "ILLEGAL_SASL_STATE",
            35 => "UNSUPPORTED_VERSION",
            42 => "INVALID_REQUEST",
            43 => "UNSUPPORTED_FOR_MESSAGE_FORMAT",
            56 => "KAFKA_STORAGE_ERROR",
            58 => "SASL_AUTHENTICATION_FAILED",
            74 => "FENCED_LEADER_EPOCH",
            75 => "UNKNOWN_LEADER_EPOCH",
            76 => "UNSUPPORTED_COMPRESSION_TYPE",
            78 => "OFFSET_NOT_AVAILABLE",
            100 => "UNKNOWN_TOPIC_ID",
            103 => "INCONSISTENT_TOPIC_ID",
            _ => return format!("error {}", self.0),
        };
        name.to_string()
    }
}
