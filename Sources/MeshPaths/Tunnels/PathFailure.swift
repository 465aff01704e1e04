import Streams

/// Why a path did not open a stream.
enum PathFailure: Error {
    /// The far side's answer: another path would bring no other.
    case refused(StreamError)
    /// The path is down, or died under the request before any of the stream's bytes was sent: another one may ask
    /// again.
    case pathLost(StreamError?)

    var error: StreamError? {
        switch self {
        case .refused(let error): error
        case .pathLost(let error): error
        }
    }
}
