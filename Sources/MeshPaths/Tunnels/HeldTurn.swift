import H2Transport
import MeshIdentity
import Streams

/// On which of the connections that a peer holds a stream is asked for, one after the other: a value without I/O.
///
/// ```
///   new      ── REFUSED_STREAM, full, lost before the answer ──→ the next one, four in all
///   resumed  ── REFUSED_STREAM ──→ the next one
///            ── 404 of another device ──→ the next one; of the stream's own device: it is gone
///            ── lost before the answer ──→ ask anew, with another token
/// ```
///
/// Without an answer none of a new stream's bytes was sent. A token is good for one request that was looked at.
struct HeldTurn {
    enum Purpose: Equatable {
        case new
        /// A stream that goes on, whose device has shown this certificate (nil: nobody knows), and is this process of
        /// its node (0: it has not said).
        case resumed(CertificateName?, process: UInt32 = 0)
    }

    enum Next {
        case another
        case over(PathFailure)
    }

    let purpose: Purpose
    /// The connections that have not opened it.
    private(set) var asked: [UInt64] = []
    private var last: PathFailure?

    /// Connections that a new stream is asked for on, as with those that this side dials.
    static let attempts = 4

    init(_ purpose: Purpose) { self.purpose = purpose }

    /// Whoever has shown it is asked first.
    var certificate: CertificateName? { if case .resumed(let certificate, _) = purpose { certificate } else { nil } }

    /// Whether a connection leads to a process that cannot have the stream, and need not be asked.
    ///
    /// - Parameter other: What its peer has said of which process it is; 0: nothing.
    func isElsewhere(than other: UInt32) -> Bool {
        guard case .resumed(_, let process) = purpose else { return false }
        return NodeProcess.isAnother(other, than: process)
    }

    /// - Parameters:
    ///   - id: The connection that was asked.
    ///   - certificate: That its peer has shown.
    mutating func failed(_ failure: ConnectFailure, on id: UInt64, _ certificate: CertificateName?) -> Next {
        asked.append(id)
        let reason: PathFailure = failure.isRetryable ? .pathLost(failure.error) : .refused(failure.error)
        switch purpose {
        case .new:
            guard failure.isRetryable, asked.count < Self.attempts else { return .over(reason) }
            last = reason
            return .another
        case .resumed(let own, _):
            if failure.isRetryable, failure.isRefusal {
                last = last ?? reason
                return .another
            }
            // Several devices may have one identity: that this one has no such stream says nothing of the others.
            guard failure.response?.status == 404, own == nil || certificate != own else { return .over(reason) }
            // The stream's own device may come back, as long as it waits there.
            let message = "the device that has the stream holds no connection to this node"
            last = own == nil ? reason : .refused(StreamError(.unreachable, message))
            return .another
        }
    }

    /// No connection is left to ask on.
    ///
    /// - Parameter nobody: What is said where there was none.
    func exhausted(_ nobody: StreamError) -> PathFailure { last ?? .pathLost(nobody) }
}
