import H2Transport
import MeshIdentity
import MeshPaths
import MeshPolicy
import Streams

/// What is known of a stream from the moment it is asked for: what a ``StreamRecord`` is made of when it is over, and
/// what a page of live streams shows before. Made only where somebody wants to know. Confined to its loop.
///
/// ```
///   begun ── refused, failed, given up ──→ recorded: refused
///     └──── opened ── given up ──→ recorded: cut
///              └──→ joined ── ended ──→ recorded: ended, or cut
/// ```
final class StreamTicket {
    /// Unique in its process.
    let id: UInt64
    let front: FrontName
    let plan: StreamPlan
    /// By the loop's clock, in nanoseconds.
    let began: UInt64
    /// When it could be joined with its client; 0 before.
    private(set) var opened: UInt64 = 0
    private(set) var isOpen = false
    /// The client's, with its port, where that is known.
    var client: SocketAddress?
    /// What carries it to its peer; nil: it was dialled from here.
    private(set) var path: PathID?
    private(set) var dialled: SocketAddress?
    /// How often it went on over something else, and why; and what carries it since, where this side has chosen.
    private(set) var history = ResumableStream.History()
    private(set) var pathNow: PathID?
    /// Who the peer proved to be.
    private(set) var peer: SPIFFEID?
    /// The trace that goes on with it; nil: none does.
    var trace: TraceParent?
    /// What else came with it beside its bytes; nil: nothing did.
    var metadata: StreamMetadata?
    /// What of its bytes was put down to the path that carried them.
    var accounted = PathTraffic()
    /// What had moved when somebody looked last: for rates.
    var looked: (at: UInt64, sent: UInt64, received: UInt64)
    /// nil once it was recorded.
    private var records: StreamRecords?

    init(id: UInt64, front: FrontName, plan: StreamPlan, records: StreamRecords) {
        self.id = id
        self.front = front
        self.plan = plan
        self.records = records
        began = records.loop.now
        looked = (began, 0, 0)
    }

    var isOver: Bool { records == nil }

    func open(over path: PathID?, dialled: SocketAddress?, peer: SPIFFEID?) {
        guard let records else { return }
        self.path = path
        pathNow = path
        self.dialled = dialled
        self.peer = peer
        opened = records.loop.now
        isOpen = true
        records.opened(self)
    }

    /// It has outlived what carried it.
    func resumed(_ history: ResumableStream.History, over path: PathID?) {
        self.history = history
        if let path { pathNow = path }
    }

    /// There is no stream.
    ///
    /// - Parameter status: What a client that speaks HTTP was answered; nil for the others.
    func refuse(_ error: StreamError, status: Int? = nil) {
        finish(.refused, sent: 0, received: 0, failure: error, by: .node, status: status)
    }

    /// The client has gone before the stream was there, or before the two could be joined.
    func giveUp() {
        let reason = StreamError(.closed, "the client gave up")
        finish(isOpen ? .cut : .refused, sent: 0, received: 0, failure: reason, by: .client, status: nil)
    }

    /// The far end has failed; what the client was answered in its place is no matter of the stream.
    func cut(_ error: StreamError, sent: UInt64, by party: StreamParty = .destination, status: Int? = nil) {
        finish(.cut, sent: sent, received: 0, failure: error, by: party, status: status)
    }

    /// The relay is over.
    func end(_ result: RelayResult) {
        let party: StreamParty =
            switch result.endedBy {
            case .first: .client
            case .second: .destination
            case .owner: .node
            }
        finish(
            result.failure == nil ? .ended : .cut,
            sent: result.bytesForward,
            received: result.bytesBackward,
            failure: result.failure,
            by: party,
            status: nil
        )
    }

    /// What its client has let go of in order, or lost, and no relay has carried.
    func end(sent: UInt64, received: UInt64, failure: StreamError?) {
        finish(
            failure == nil ? .ended : .cut,
            sent: sent,
            received: received,
            failure: failure,
            by: .client,
            status: nil
        )
    }

    private func finish(
        _ outcome: StreamRecord.Outcome,
        sent: UInt64,
        received: UInt64,
        failure: StreamError?,
        by party: StreamParty,
        status: Int?
    ) {
        guard let records else { return }
        self.records = nil
        records.record(
            StreamRecord(
                ticket: self,
                ended: records.loop.now,
                outcome: outcome,
                sent: sent,
                received: received,
                failure: failure,
                endedBy: party,
                status: status
            )
        )
    }
}

/// What became of a stream: made once, when it is over, and all that the access log and the metrics know of it.
struct StreamRecord {
    enum Outcome: String {
        /// Both directions ended.
        case ended
        /// It was open, and did not end by itself.
        case cut
        /// It never was.
        case refused
    }

    let ticket: StreamTicket
    /// By the loop's clock.
    let ended: UInt64
    let outcome: Outcome
    /// Bytes from the client to the destination.
    let sent: UInt64
    let received: UInt64
    let failure: StreamError?
    let endedBy: StreamParty
    /// Of the answer to a refused request of HTTP.
    let status: Int?
}
