import MeshPaths
import MeshPolicy
import Platform
import Streams

/// What one event loop knows of its streams for those who want to know: the access log, the metrics and the
/// administration. Where nobody does, no stream has a ticket, and this costs a comparison. Confined to its loop.
final class StreamRecords {
    let loop: EventLoop
    private var log: AccessLogBuffer?
    private var isCounting = false
    private(set) var isOn = false
    /// What this loop's streams have come to, by where they came in: a handful.
    private(set) var fronts: [FrontStatistics] = []
    private(set) var pathChanges: [PathChangeKind: UInt64] = [:]
    /// What has been carried to each peer over each of its paths, as far as it was looked at.
    private(set) var traffic: [PeerID: [PathID: PathTraffic]] = [:]
    /// What was decided last; empty where nobody may ask.
    private(set) var decisions = DecisionLog()
    private var nextID: UInt64
    private let stride: UInt64

    /// - Parameters:
    ///   - number: Of this loop, from 0.
    ///   - count: Of the node's loops.
    init(on loop: EventLoop, number: Int = 0, of count: Int = 1) {
        self.loop = loop
        nextID = UInt64(number) + 1
        stride = UInt64(count)
    }

    /// From now on streams are recorded there; those that have begun without a ticket stay without.
    ///
    /// - Parameter isCounting: For metrics, or for pages of the administration.
    func use(_ accessLog: AccessLog?, isCounting: Bool) {
        if log?.log !== accessLog {
            log?.flush()
            log = accessLog.map { AccessLogBuffer($0, on: loop) }
        }
        self.isCounting = isCounting
        isOn = log != nil || isCounting
    }

    /// nil: nobody wants to know.
    ///
    /// - Parameter front: Looked for only where somebody does.
    func begin(_ plan: StreamPlan, at front: @autoclosure () -> FrontName) -> StreamTicket? {
        guard isOn else { return nil }
        let front = front()
        if isCounting { decisions.note(plan, at: front.listener) }
        let ticket = StreamTicket(id: nextID, front: front, plan: plan, records: self)
        nextID &+= stride
        return ticket
    }

    func opened(_ ticket: StreamTicket) {
        fronts[index(of: ticket.front)].open(over: ticket.path?.transport, after: ticket.opened &- ticket.began)
    }

    func record(_ record: StreamRecord) {
        log?.append(record)
        let ticket = record.ticket
        let index = index(of: ticket.front)
        if ticket.isOpen {
            account(ticket, sent: record.sent, received: record.received)
            fronts[index].end(
                over: ticket.path?.transport,
                record.failure?.code,
                by: record.endedBy,
                sent: record.sent,
                received: record.received
            )
        } else if let failure = record.failure {
            fronts[index].refuse(failure.code)
        }
    }

    /// A stream has carried so much since it was opened: what is new of it was carried by the path that it is on.
    func account(_ ticket: StreamTicket, sent: UInt64, received: UInt64) {
        guard isCounting, let path = ticket.pathNow, case .peer(let route, _) = ticket.plan.outcome else { return }
        let before = ticket.accounted
        ticket.accounted = PathTraffic(sent: sent, received: received)
        traffic[route.peer.id, default: [:]][path, default: PathTraffic()].add(
            sent: sent &- before.sent,
            received: received &- before.received
        )
    }

    func rulesChanged() { decisions.rulesChanged() }

    /// Of peers that are no more, nothing is told.
    func forgetPeers(but known: (PeerID) -> Bool) { traffic = traffic.filter { known($0.key) } }

    /// A client of TLS was none, or not let in.
    func handshakeFailed(_ code: StreamError.Code, at front: FrontName) {
        guard isOn else { return }
        fronts[index(of: front)].handshakeFailed(code)
    }

    func count(_ change: PathChangeKind) { pathChanges[change, default: 0] &+= 1 }

    private func index(of front: FrontName) -> Int {
        if let index = fronts.firstIndex(where: { $0.front === front }) { return index }
        if let index = fronts.firstIndex(where: { $0.front == front }) { return index }
        fronts.append(FrontStatistics(front))
        return fronts.count - 1
    }

    /// What is kept here goes to the log.
    func flush() { log?.flush() }
}
