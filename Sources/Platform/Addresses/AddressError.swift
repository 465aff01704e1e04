/// Why a text is no address, host name or authority, in words that a person can act on.
public struct AddressError: Error, Hashable, Sendable, CustomStringConvertible {
    /// It never repeats more than a short, escaped part of the text, which may come from a peer.
    public let message: String

    package init(_ message: String) { self.message = message }

    public var description: String { message }
}
