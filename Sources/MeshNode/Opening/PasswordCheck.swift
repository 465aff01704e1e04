import MeshIdentity
import Platform
import Streams

/// Checks users' names and passwords against a file of hashes. Each check takes a good part of a second of a processor,
/// so one runs at a time, on a thread of its own, and a password that was right is recognised after that. Safe from any
/// thread.
final class PasswordCheck: Sendable {
    private struct Question: Sendable {
        let user: [UInt8]
        let password: [UInt8]
        let source: IPAddress
        let answer: @Sendable (Bool) -> Void
    }

    private struct State: Sendable {
        /// What stands for the name and password of each user who has come in.
        var proven: [[UInt8]: [UInt8]] = [:]
        var waiting: ArraySlice<Question> = []
        var isRunning = false
    }

    private let users: [String: PasswordHash]
    /// Unknown users take as long as known ones.
    private let nobody: PasswordHash?
    private let key = PasswordHash.randomKey()
    private let state = Lock(State())

    /// Who asks more often than it is answered gets no: guessing must not keep others out, or the memory filled.
    private static let limit = 64
    private static let limitPerSource = 4

    init(_ file: UserFile) {
        users = file.users
        nobody = file.users.values.first
    }

    /// - Parameters:
    ///   - source: Where the question comes from.
    ///   - completion: Called once on `loop`, also from inside this call.
    func check(
        user: [UInt8],
        password: [UInt8],
        from source: IPAddress,
        on loop: EventLoop,
        completion: @escaping (Bool) -> Void
    ) {
        let fingerprint = PasswordHash.fingerprint(user + [0] + password, key: key)
        // Told from others by a hash with a key that nobody knows: the time of comparing it tells nothing.
        if state.withLock({ $0.proven[user] == fingerprint }) { return completion(true) }
        let completion = LoopBound(completion, on: loop)
        let question = Question(user: user, password: password, source: source) { isRight in
            loop.submit { completion.withValue { $0(isRight) } }
        }
        let (isTaken, starts) = state.withLock { state in
            guard state.waiting.count < Self.limit,
                state.waiting.count(where: { $0.source == source }) < Self.limitPerSource
            else { return (false, false) }
            state.waiting.append(question)
            defer { state.isRunning = true }
            return (true, !state.isRunning)
        }
        guard isTaken else { return question.answer(false) }
        guard starts else { return }
        do throws(SystemError) {
            try startOwnThread { [self] in run() }
        } catch {
            let waiting = state.withLock { state in
                defer { (state.waiting, state.isRunning) = ([], false) }
                return state.waiting
            }
            for question in waiting { question.answer(false) }
        }
    }

    private func run() {
        while let question = next() {
            let hash = users[String(decoding: question.user, as: UTF8.self)]
            let isRight = (hash ?? nobody)?.matches(question.password) == true && hash != nil
            if isRight {
                let fingerprint = PasswordHash.fingerprint(question.user + [0] + question.password, key: key)
                state.withLock { $0.proven[question.user] = fingerprint }
            }
            question.answer(isRight)
        }
    }

    private func next() -> Question? {
        state.withLock { state in
            guard let next = state.waiting.popFirst() else {
                state.isRunning = false
                return nil
            }
            return next
        }
    }
}
