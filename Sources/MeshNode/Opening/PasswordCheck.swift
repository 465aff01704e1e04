import MeshIdentity
import Platform
import Streams

/// Checks users' names and passwords against a file of hashes. Each check takes a good part of a second of a processor,
/// so one runs at a time, on a thread of its own, and a password that was right is recognised after that. Whoever asks
/// what somebody asks already waits for the same answer. Safe from any thread.
final class PasswordCheck: Sendable {
    enum Verdict: Sendable {
        case right
        case wrong
        /// Nobody has looked: too many wait.
        case busy
    }

    struct Question: Sendable {
        let user: [UInt8]
        let password: [UInt8]
        /// Stands for both.
        let fingerprint: [UInt8]
        /// Where it comes from.
        let network: IPAddress
        /// Of everybody who asks it.
        var answers: [@Sendable (Verdict) -> Void]

        fileprivate func isSame(as other: Question) -> Bool { user == other.user && fingerprint == other.fingerprint }
    }

    /// The questions without an answer, and what was right.
    struct Queue: Sendable {
        enum Place: Hashable, Sendable {
            /// It waits, and nobody works.
            case first
            case waits
            /// It is known to be right.
            case known
            case refused
        }

        /// What stands for the name and password of each user who has come in.
        private var proven: [[UInt8]: [UInt8]] = [:]
        private var waiting: ArraySlice<Question> = []
        private var running: Question?
        private var isRunning = false

        /// Who asks more often than it is answered is sent away: guessing must not keep others out, or the memory
        /// filled.
        private static let limit = 64
        private static let limitPerNetwork = 4

        /// Told from others by a hash with a key that nobody knows: the time of comparing it tells nothing.
        func isProven(_ user: [UInt8], _ fingerprint: [UInt8]) -> Bool { proven[user] == fingerprint }

        mutating func take(_ question: Question) -> Place {
            if isProven(question.user, question.fingerprint) { return .known }
            // A browser opens many connections at once, each with the same password: that is one question.
            if running?.isSame(as: question) == true {
                running?.answers += question.answers
                return .waits
            }
            if let index = waiting.firstIndex(where: { $0.isSame(as: question) }) {
                waiting[index].answers += question.answers
                return .waits
            }
            guard waiting.count < Self.limit,
                waiting.count(where: { $0.network == question.network }) < Self.limitPerNetwork
            else { return .refused }
            waiting.append(question)
            defer { isRunning = true }
            return isRunning ? .waits : .first
        }

        /// What to look at next; nil: nobody works any more.
        mutating func next() -> Question? {
            running = waiting.popFirst()
            if running == nil { isRunning = false }
            return running
        }

        /// Returns who is to be told of the question that ``next()`` gave.
        mutating func finish(isRight: Bool) -> [@Sendable (Verdict) -> Void] {
            guard let question = running else { return [] }
            if isRight { proven[question.user] = question.fingerprint }
            running = nil
            return question.answers
        }

        /// Nobody can work. Returns who is to be told.
        mutating func giveUp() -> [@Sendable (Verdict) -> Void] {
            defer { (waiting, isRunning) = ([], false) }
            return waiting.flatMap(\.answers)
        }
    }

    private let users: [String: PasswordHash]
    /// Unknown users take as long as known ones.
    private let nobody: PasswordHash?
    private let key = PasswordHash.randomKey()
    private let queue = Lock(Queue())

    init(_ file: UserFile) {
        users = file.users
        nobody = file.users.values.first
    }

    /// Whether the same come in by it.
    func isSame(as other: PasswordCheck) -> Bool { self === other || users == other.users }

    /// Whoever has one address of IPv6 has the other 2⁶⁴ of its network.
    static func network(of source: IPAddress) -> IPAddress { source.isIPv4 ? source : source.masked(64) }

    /// - Parameters:
    ///   - source: Where the question comes from.
    ///   - completion: Called once on `loop`, also from inside this call.
    func check(
        user: [UInt8],
        password: [UInt8],
        from source: IPAddress,
        on loop: EventLoop,
        completion: @escaping (Verdict) -> Void
    ) {
        let fingerprint = PasswordHash.fingerprint(user + [0] + password, key: key)
        if queue.withLock({ $0.isProven(user, fingerprint) }) { return completion(.right) }
        let completion = LoopBound(completion, on: loop)
        let answer: @Sendable (Verdict) -> Void = { verdict in
            loop.submit { completion.withValue { $0(verdict) } }
        }
        let question = Question(
            user: user,
            password: password,
            fingerprint: fingerprint,
            network: Self.network(of: source),
            answers: [answer]
        )
        switch queue.withLock({ $0.take(question) }) {
        case .waits: return
        case .known: return answer(.right)
        case .refused: return answer(.busy)
        case .first: break
        }
        do throws(SystemError) {
            try startOwnThread { [self] in run() }
        } catch {
            for answer in queue.withLock({ $0.giveUp() }) { answer(.busy) }
        }
    }

    private func run() {
        while let question = queue.withLock({ $0.next() }) {
            let hash = users[String(decoding: question.user, as: UTF8.self)]
            let isRight = (hash ?? nobody)?.matches(question.password) == true && hash != nil
            for answer in queue.withLock({ $0.finish(isRight: isRight) }) { answer(isRight ? .right : .wrong) }
        }
    }
}
