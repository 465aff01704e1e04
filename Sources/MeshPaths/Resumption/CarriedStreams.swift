import H2Transport
import Streams

/// A resumable stream as ``CarriedStreams`` sees it.
protocol CarriedStream: AnyObject {
    var carriedPart: CarriedPart { get set }
    /// Bytes that were written and not acknowledged.
    var keptCount: Int { get }
    /// Up to where they were.
    var acknowledgedPosition: UInt64 { get }
    /// What the peer of the connection acknowledges at once, where the path is a short one; nil: not known, or not so.
    var promptStep: Int? { get }

    /// It may keep more: it goes on, or says what else it waits for.
    func hasRoomAgain()
    /// It sends the acknowledgement that it owes.
    func acknowledgeNow()
}

/// What ``CarriedStreams`` knows of a stream. The stream has it, so that nobody looks for it.
struct CarriedPart {
    fileprivate var kept = 0
    fileprivate var keptIndex = -1
    fileprivate var owed = 0
    fileprivate var owedIndex = -1
    /// Stands in the row for room.
    fileprivate(set) var isWaiting = false
    /// Its reader takes nothing.
    fileprivate var isStill = false
    /// It was told that there is room, in that round; 0: it has come since, or was told nothing.
    fileprivate var promisedIn: UInt64 = 0
    /// What was acknowledged when it was looked at, and in which round that was.
    fileprivate var acknowledged: UInt64 = 0
    fileprivate var lookedAtIn: UInt64 = 0
}

/// What the resumable streams of one connection have in common: how many bytes all of them keep, and how many they have
/// taken and not acknowledged. Confined to the connection's loop.
///
/// What is kept is written, and as a rule never read again: more of it than fits into the processor's caches costs a
/// tenth of the CPU time of a byte and more. On a short path little need be kept, where the other side acknowledges
/// soon. So a receiver acknowledges on all streams of a connection together, each ``step`` bytes of them, and says so
/// in its SETTINGS; a sender whose peer has said it keeps no more than twice as much.
///
/// ```
///   receiver   taken and not acknowledged, by all streams: 512 KiB ──→ each acknowledges what it has taken
///   sender     kept, of all streams that move: 1 MiB ──→ they wait in a row ── an acknowledgement ──→ in turn
/// ```
///
/// A stream whose reader takes nothing does not count, so that it costs the others nothing; nor does one with little.
final class CarriedStreams<Stream: CarriedStream> {
    private let loop: EventLoop
    /// Of all streams that count; nil: what each of them may.
    private var limit: Int?
    /// By the streams that count.
    private(set) var kept = 0
    private(set) var owed = 0
    private var keeping: ContiguousArray<Stream> = []
    private var owing: ContiguousArray<Stream> = []
    /// In the order in which they came.
    private var waiting: ContiguousArray<Stream> = []
    /// To streams that were told of it and have not come yet.
    private var promised = 0
    /// Grows with each look at the streams.
    private var round: UInt64 = 1
    private var timer: LoopTimer?

    /// A receiver acknowledges so many bytes at once.
    static var step: Int { ConnectionSettings.promptStep }
    /// Each stream may keep so much, whatever the others do: a keystroke waits for nobody.
    static var least: Int { 64 << 10 }
    /// What is less does not count, on either side: it is acknowledged by and by.
    static var smallest: Int { 8 << 10 }
    /// How long nothing may be acknowledged of a stream, while others wait for room, until it does not count.
    private static var pause: Duration { .milliseconds(10) }

    /// - Parameters:
    ///   - loop: Of the connection.
    ///   - limit: nil, but for tests: found out once there is enough to ask about.
    init(on loop: EventLoop, limit: Int? = nil) {
        self.loop = loop
        self.limit = limit
    }

    // MARK: Sending

    /// How many more bytes `stream` may keep.
    func room(for stream: Stream) -> Int {
        if limit == nil, kept > 2 * Self.step {
            // Not before: a round trip is over then, and the shortest one is known.
            limit = stream.promptStep.map { 2 * max(Self.step, $0) }
        }
        guard let limit else { return .max }
        return max(0, limit - kept, Self.least - stream.keptCount)
    }

    /// What `stream` keeps has changed.
    func count(_ stream: Stream) {
        let count = stream.keptCount
        set(stream, count >= Self.smallest && !stream.carriedPart.isStill ? count : 0)
    }

    private func set(_ stream: Stream, _ count: Int) {
        kept += count - stream.carriedPart.kept
        stream.carriedPart.kept = count
        let index = stream.carriedPart.keptIndex
        if count > 0, index < 0 {
            stream.carriedPart.keptIndex = keeping.count
            keeping.append(stream)
        } else if count == 0, index >= 0 {
            stream.carriedPart.keptIndex = -1
            let last = keeping.removeLast()
            guard last !== stream else { return }
            keeping[index] = last
            last.carriedPart.keptIndex = index
        }
    }

    /// Something of what `stream` keeps was acknowledged. It is counted next.
    func moved(_ stream: Stream) { stream.carriedPart.isStill = false }

    /// `stream` goes on when there is room.
    func wait(_ stream: Stream) {
        guard !stream.carriedPart.isWaiting else { return }
        stream.carriedPart.isWaiting = true
        waiting.append(stream)
        let timer = self.timer ?? LoopTimer(on: loop) { [weak self] in self?.look() }
        self.timer = timer
        guard !timer.isScheduled else { return }
        // What was seen before is too long ago to tell anything.
        begin(round: round + 2)
        timer.schedule(after: Self.pause)
    }

    private func begin(round: UInt64) {
        self.round = round
        promised = 0
    }

    /// `stream` has had its turn for the room there was. Returns whether another one waits for what it has left.
    func came(_ stream: Stream) -> Bool {
        guard stream.carriedPart.promisedIn > 0 else { return false }
        endPromise(to: stream)
        return !waiting.isEmpty && hasRoom
    }

    private func endPromise(to stream: Stream) {
        if stream.carriedPart.promisedIn == round { promised -= Self.least }
        stream.carriedPart.promisedIn = 0
    }

    private var hasRoom: Bool { (limit ?? .max) - kept - promised >= Self.least }

    /// As many of those that wait go on as there is room for. Not to be called from inside of HTTP/2's engine.
    func release() {
        while !waiting.isEmpty, hasRoom {
            let stream = waiting.removeFirst()
            stream.carriedPart.isWaiting = false
            if stream.carriedPart.promisedIn != round { promised += Self.least }
            stream.carriedPart.promisedIn = round
            stream.hasRoomAgain()
        }
    }

    /// While streams wait: those that nothing was acknowledged of since the last time do not count.
    func look() {
        guard !waiting.isEmpty else { return }
        begin(round: round + 1)
        for stream in Array(keeping) {
            let wasSeen = stream.carriedPart.lookedAtIn == round - 1
            let isStill = wasSeen && stream.carriedPart.acknowledged == stream.acknowledgedPosition
            stream.carriedPart.lookedAtIn = round
            stream.carriedPart.acknowledged = stream.acknowledgedPosition
            guard isStill else { continue }
            stream.carriedPart.isStill = true
            set(stream, 0)
        }
        release()
        if !waiting.isEmpty { timer?.schedule(after: Self.pause) }
    }

    // MARK: Receiving

    /// `stream` has taken bytes, and owes an acknowledgement of `count`. Returns whether all that owe one send it now.
    func owes(_ stream: Stream, _ count: Int) -> Bool {
        if stream.carriedPart.owedIndex < 0 {
            guard count >= Self.smallest else { return false }
            stream.carriedPart.owedIndex = owing.count
            owing.append(stream)
        }
        owed += count - stream.carriedPart.owed
        stream.carriedPart.owed = count
        return owed >= Self.step
    }

    /// `stream` has acknowledged everything.
    func acknowledged(_ stream: Stream) {
        let index = stream.carriedPart.owedIndex
        guard index >= 0 else { return }
        owed -= stream.carriedPart.owed
        stream.carriedPart.owed = 0
        stream.carriedPart.owedIndex = -1
        let last = owing.removeLast()
        guard last !== stream else { return }
        owing[index] = last
        last.carriedPart.owedIndex = index
    }

    /// In one record: the connection sends what its streams have at the end of the turn.
    func acknowledgeAll() {
        while let stream = owing.last {
            acknowledged(stream)
            stream.acknowledgeNow()
        }
    }

    // MARK: The end

    /// `stream` goes on over another connection, or waits for one.
    func leave(_ stream: Stream) {
        set(stream, 0)
        acknowledged(stream)
        endPromise(to: stream)
        if stream.carriedPart.isWaiting { waiting.removeAll { $0 === stream } }
        stream.carriedPart = CarriedPart()
        // Not from inside of what made it leave.
        if !waiting.isEmpty, hasRoom { loop.later { [weak self] in self?.release() } }
    }
}

extension ResumableStream: CarriedStream {
    var keptCount: Int { kept.count }
    var acknowledgedPosition: UInt64 { state.acknowledged }

    /// A longer path than this needs what is on its way, and that is kept: a MiB in 1 ms is 8 Gbit/s.
    private static let longRoundTrip: Duration = .milliseconds(1)

    var promptStep: Int? {
        guard let connection = direct?.transport, connection.peerAcknowledges > 0,
            let time = connection.shortestRoundTripTime, time < Self.longRoundTrip
        else { return nil }
        return connection.peerAcknowledges
    }

    /// What it has in common with the others of its connection; nil where the carrier is no stream of this loop.
    func carriedStreams() -> CarriedStreams<ResumableStream>? {
        if let carried { return carried }
        guard let connection = direct?.transport else { return nil }
        let known = connection.companion as? CarriedStreams<ResumableStream>
        let streams = known ?? CarriedStreams(on: loop)
        connection.companion = streams
        carried = streams
        return streams
    }

    /// The connection's streams keep less, so that this one may keep more.
    func hasRoomAgain() {
        // Meanwhile it may lack something else.
        if ownRoom > 0 { wakeWriters() } else { noteShortage() }
    }
}
