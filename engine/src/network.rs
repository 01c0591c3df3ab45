//! How nodes of one cluster dial each other: message sizes, time limits, keep-alive.

use std::time::Duration;

use tonic::transport::Endpoint;

/// The largest message between nodes, in bytes. Towards clients frames are far smaller (see [`crate::batches`]).
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The largest launch, in bytes: all tasks that one look of the scheduler gives an executor, each with its own plan. One
/// that is too large has a healthy executor thrown out, so that this is far above what plans may hold.
pub const MAX_LAUNCH_BYTES: usize = 256 << 20;

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Sets the time limits of a connection inside the cluster. Ballista's data-plane clients come without any, so that a
/// stopped peer would hold a task for ever: a peer that answers no ping for ten seconds is gone.
pub fn internal_endpoint(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

/// Splits `host:port`; an IPv6 host stands in brackets. `None` for anything else.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_');
    let port: u16 = port.parse().ok()?;
    ((bracketed || plain) && port != 0).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::split_address;

    #[test]
    fn takes_addresses_and_nothing_else() {
        assert_eq!(split_address("127.0.0.1:50061"), Some(("127.0.0.1", 50061)));
        assert_eq!(split_address("[::1]:9"), Some(("[::1]", 9)));
        for bad in ["", "host", "host:", ":1", "host:0", "host:70000", "http://host:1", "a/b:1", "::1:5"] {
            assert_eq!(split_address(bad), None, "{bad}");
        }
    }
}
