/// What the other side of a resumable stream did against the protocol. It ends the carrier that brought it, never the
/// stream.
struct ResumptionViolation: Error, Hashable, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// The numbers of a resumable stream, as one of its two ends knows them. No I/O, no clock and no bytes: those are its
/// owner's.
///
/// ```
///   written   0 ─── acknowledged ─── sent ─── written     kept: what lies between the first and the last
///   read      0 ─── announced ─── delivered ─── arrived
/// ```
///
/// Each direction counts its bytes from 0; its end is the position after the last of them, and counts as one. A carrier
/// brings what was sent on it in order, up to where it dies. Then both sides say how far they have come, and go on from
/// there on another carrier: what arrived is never sent again, what did not is.
///
/// ```
///   attached ── detach() ──→ detached ── attach(generation:) ──→ attached …
/// ```
///
/// Generations only ever grow: a word of an earlier one is refused.
struct ResumptionState {
    /// Bytes that one side may have sent, or be about to send, without an acknowledgement: what a round trip of 100 ms
    /// takes at a gigabit. On a short path the window of HTTP/2, which grows with the path only, allows less.
    static let defaultWindow = 16 << 20
    /// After this many bytes the other side is told soon, whatever else there is to say.
    static let acknowledgementStep: UInt64 = 128 << 10
    /// And after this many at once: it does not keep more for want of other frames that the acknowledgement can go
    /// with.
    static let urgentStep: UInt64 = 512 << 10

    /// Of both sides: the protocol has one number. Smaller where a test wants it used up.
    let window: Int

    init(window: Int = Self.defaultWindow) { self.window = window }

    // What this side says.

    private(set) var acknowledged: UInt64 = 0
    /// On the carrier there is; goes back when the next one begins.
    private(set) var sent: UInt64 = 0
    private(set) var written: UInt64 = 0
    /// What was ever sent: nothing beyond can have arrived.
    private var highest: UInt64 = 0
    /// The end is at ``written``.
    private(set) var hasFinished = false
    private(set) var hasSentEnd = false
    private var hasEverSentEnd = false
    private(set) var isEndAcknowledged = false

    // What the other side says.

    private(set) var arrived: UInt64 = 0
    private(set) var delivered: UInt64 = 0
    /// What the other side was told last, as a position.
    private var announced: UInt64 = 0
    /// It may have got lost with a carrier.
    private var mustAnnounce = false
    private var acknowledgementLimit: UInt64 = .max
    /// Where the other side's bytes end.
    private(set) var end: UInt64?
    private(set) var isEndDelivered = false

    /// Bytes that come again at the start of a carrier: they arrived on the one before, after this side had said where
    /// it wants to go on.
    private var repeated: UInt64 = 0
    private var repeatsEnd = false

    private(set) var generation: UInt64 = 0
    private(set) var isAttached = true

    // MARK: Writing

    /// How many bytes may be written until something is acknowledged.
    var room: Int { window - Int(written - acknowledged) }
    var unsent: Int { Int(written - sent) }
    /// Of the bytes kept, how many come before those that are to be sent next.
    var sentAndKept: Int { Int(sent - acknowledged) }

    mutating func write(_ count: Int) { written += UInt64(count) }

    mutating func send(_ count: Int) {
        sent += UInt64(count)
        highest = max(highest, sent)
    }

    /// Returns false where the end was there before.
    mutating func finish() -> Bool {
        guard !hasFinished else { return false }
        hasFinished = true
        return true
    }

    /// Every byte was sent, and that there are no more was not.
    var owesEnd: Bool { hasFinished && !hasSentEnd && sent == written }

    mutating func sendEnd() {
        hasSentEnd = true
        hasEverSentEnd = true
    }

    /// The other side has taken everything before `position`.
    ///
    /// - Returns: How many bytes need not be kept any more.
    mutating func acknowledge(_ position: UInt64) throws(ResumptionViolation) -> Int {
        let known = acknowledged + (isEndAcknowledged ? 1 : 0)
        guard position >= known else {
            throw ResumptionViolation("acknowledges \(position) after \(known)")
        }
        // What was sent on an earlier carrier may have arrived, and is still sent again on this one, out of what is
        // kept.
        guard position <= sentPosition else {
            throw ResumptionViolation("acknowledges \(position), and \(sentPosition) was sent")
        }
        if hasSentEnd, position == written + 1 { isEndAcknowledged = true }
        let bytes = min(position, written)
        defer { acknowledged = bytes }
        return Int(bytes - acknowledged)
    }

    private var sentPosition: UInt64 { hasSentEnd ? written + 1 : sent }
    private var highestPosition: UInt64 { hasEverSentEnd ? written + 1 : highest }

    // MARK: Reading

    /// - Returns: How many of them are new: those at the end.
    mutating func receive(_ count: Int) throws(ResumptionViolation) -> Int {
        guard repeated == 0 else {
            let old = min(UInt64(count), repeated)
            repeated -= old
            return old == UInt64(count) ? 0 : try receive(count - Int(old))
        }
        guard end == nil else { throw ResumptionViolation("sends bytes after its end") }
        let next = arrived + UInt64(count)
        guard next <= announced + UInt64(window) else {
            throw ResumptionViolation("sends more than \(window) bytes that are not acknowledged")
        }
        arrived = next
        return count
    }

    mutating func receiveEnd(at position: UInt64) throws(ResumptionViolation) {
        if repeatsEnd, end == position, repeated == 0 {
            repeatsEnd = false
            return
        }
        guard end == nil else { throw ResumptionViolation("ends twice") }
        guard position == arrived else { throw ResumptionViolation("ends at \(position), and has sent \(arrived)") }
        end = position
    }

    /// The reader has taken so many of those that arrived.
    mutating func deliver(_ count: Int) { delivered += UInt64(count) }

    /// Everything before the end was delivered.
    var isAtEnd: Bool { end == delivered }

    mutating func deliverEnd() { isEndDelivered = true }

    /// Where the other side goes on: what is before it has arrived here.
    var position: UInt64 { arrived + (end == nil ? 0 : 1) }

    @inline(__always) private var deliveredPosition: UInt64 { delivered + (isEndDelivered ? 1 : 0) }
    // Not called but put in place, as what follows: a call would be handed a copy of all the numbers.
    @inline(__always) private var announceable: UInt64 {
        min(deliveredPosition, acknowledgementLimit, repeatedPosition)
    }
    /// What comes again is acknowledged when it has: until then, the other side has not sent it on this carrier.
    @inline(__always) private var repeatedPosition: UInt64 { repeated > 0 || repeatsEnd ? arrived - repeated : .max }
    /// There is something to acknowledge.
    @inline(__always) var owesAcknowledgement: Bool { announceable > announced || mustAnnounce }
    /// So much was taken and not acknowledged, the end included.
    @inline(__always) var owed: Int { Int(announceable > announced ? announceable - announced : 0) }
    /// It is not to wait for bytes that it can go with. That of the other side's end is the last word where this side
    /// has ended, too; before that it goes with this side's end, which follows at once as a rule.
    @inline(__always) var isAcknowledgementDue: Bool {
        let announceable = announceable
        return mustAnnounce || announceable >= announced + Self.acknowledgementStep
            || isEndDelivered && hasSentEnd && announceable > announced
    }

    /// What is due is that of the end alone, which nobody waits for.
    @inline(__always) var owesLastWordOnly: Bool { announceable < announced + Self.acknowledgementStep }

    /// It does not wait for other streams' frames, either.
    @inline(__always) var isAcknowledgementUrgent: Bool { mustAnnounce || announceable >= announced + Self.urgentStep }

    /// What is owed is not to wait any longer.
    mutating func hurryAcknowledgement() { mustAnnounce = true }

    mutating func announce() -> UInt64 {
        announced = max(announced, announceable)
        mustAnnounce = false
        return announced
    }

    // MARK: Carriers

    /// Everything that this side has to say was said on the carrier, and there will be no more.
    @inline(__always) var mayEndCarrier: Bool {
        hasSentEnd && isEndDelivered && !mustAnnounce && announced == deliveredPosition
    }
    /// There is nothing to say on the carrier.
    @inline(__always) var isSilent: Bool { unsent == 0 && !owesEnd && !isAcknowledgementDue && !mayEndCarrier }
    /// Both directions have ended, and both sides know.
    var isOver: Bool { isEndAcknowledged && isEndDelivered }

    /// Says where the other side goes on. While that is on its way, nothing beyond is acknowledged on the carrier there
    /// is: the other side would take the position for one that cannot be.
    mutating func ask() -> UInt64 {
        acknowledgementLimit = position
        return position
    }

    /// No answer comes.
    mutating func askedInVain() { acknowledgementLimit = .max }

    mutating func detach() { isAttached = false }

    /// Another carrier takes over, also where there is one still.
    ///
    /// - Parameters:
    ///   - generation: Larger than every one before.
    ///   - position: Where the other side says that this one goes on.
    ///   - asked: Where this side has said that the other one goes on; nil: at ``position``, as it is now.
    mutating func attach(
        generation: UInt64,
        position: UInt64,
        asked: UInt64? = nil
    ) throws(ResumptionViolation) {
        try check(generation: generation, position: position)
        self.generation = generation
        isAttached = true
        acknowledgementLimit = .max
        let asked = asked ?? self.position
        repeated = arrived - min(asked, arrived)
        repeatsEnd = end.map { asked <= $0 } ?? false
        sent = min(position, written)
        hasSentEnd = hasEverSentEnd && position == written + 1
        mustAnnounce = deliveredPosition > 0
    }

    /// Whether ``attach(generation:position:asked:)`` would do.
    func check(generation: UInt64, position: UInt64) throws(ResumptionViolation) {
        guard generation > self.generation else {
            throw ResumptionViolation("resumes generation \(generation) after \(self.generation)")
        }
        let known = acknowledged + (isEndAcknowledged ? 1 : 0)
        guard (known...highestPosition).contains(position) else {
            throw ResumptionViolation("resumes at \(position), outside of \(known) to \(highestPosition)")
        }
    }
}
