package import Streams

/// Why an accepted connection came to nothing on the way to its destination.
package enum ForwardFailure: Sendable {
    case notOpened(String, StreamError)
    case cut(String, StreamError)
}
