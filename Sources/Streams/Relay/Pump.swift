import CLinux

/// One direction of a relay: moves bytes from a source to a sink until the source ends or either fails.
///
/// Where the source or the sink has a direct path (``ByteStream/push(to:for:)``, ``ByteStream/pull(from:for:)``), that path
/// moves the bytes. Otherwise the pump copies through a pooled buffer that it holds only while the sink refuses bytes.
public final class Pump {
    /// Bytes the sink has accepted.
    public private(set) var bytesMoved: UInt64 = 0
}
