import CLibSSH2
import Glibc
import Streams

/// Keyboard-interactive authentication (RFC 4256): the server asks whatever it likes, in as many rounds as it likes,
/// and a person answers. One object is one attempt; it lives on the session's loop.
final class KeyboardInteractive {
    enum Result {
        case accepted
        case partial([String])
        /// `asked` is how many questions there were.
        case refused(asked: Int)
        /// The person gave no answer.
        case abandoned
        case failed(SSHError)
    }

    private unowned let session: any AuthenticatingSession
    private let record: AuthenticationRecord
    private let prompt: AuthenticationPrompt
    private let attempt: Int
    private let completion: (Result) -> Void
    private var call: SuspendableCall?
    private var questions: [AuthenticationQuestion] = []
    private var answers: [[UInt8]] = []
    private var isWaiting = false
    private var isStopped = false
    private var asked = 0
    private var rounds = 0

    /// More is a server that wears its user out.
    private static let maximumRounds = 16
    private static let maximumQuestions = 16

    init(
        _ session: any AuthenticatingSession,
        record: AuthenticationRecord,
        attempt: Int,
        prompt: @escaping AuthenticationPrompt,
        completion: @escaping (Result) -> Void
    ) {
        self.session = session
        self.record = record
        self.attempt = attempt
        self.prompt = prompt
        self.completion = completion
    }

    func start() {
        let raw = session.library.raw
        let user = session.configuration.user
        call = SuspendableCall(again: LIBSSH2_ERROR_EAGAIN) {
            libssh2_userauth_keyboard_interactive_ex(raw, user, UInt32(user.utf8.count), keyboardInteractiveCallback)
        }
        session.library.answerQuestions = { [weak self] in self?.answer($0, instruction: $1) ?? [] }
        session.library.authenticationFailure = nil
        session.perform({ [unowned self] in step() }, then: { [unowned self] in ended($0) })
    }

    func stop() {
        isStopped = true
        call?.cancel()
        call = nil
        wipe()
    }

    /// What libssh2 is called with, again and again: nothing of libssh2 runs while a person is thinking.
    private func step() -> Int32 {
        guard !isWaiting, let call else { return LIBSSH2_ERROR_EAGAIN }
        do throws(SSHError) {
            switch try call.resume() {
            case .returned(let result): return result
            case .suspended:
                ask()
                return LIBSSH2_ERROR_EAGAIN
            }
        } catch {
            record.notes.append("keyboard-interactive: \(error.message)")
            return LIBSSH2_ERROR_AUTHENTICATION_FAILED
        }
    }

    /// Called by libssh2, on the call's own thread while the loop waits.
    private func answer(_ texts: [(text: String, isSecret: Bool)], instruction: String) -> [[UInt8]] {
        rounds += 1
        guard !texts.isEmpty else {
            // A message without a question: mostly why the account cannot log in.
            if !instruction.isEmpty { record.notes.append("the server says: \(instruction)") }
            return []
        }
        guard texts.count <= Self.maximumQuestions, rounds <= Self.maximumRounds, let call, !call.isCancelled else {
            return []
        }
        questions = texts.map { text, isSecret in
            AuthenticationQuestion(
                method: "keyboard-interactive",
                destination: session.peerDescription,
                text: text,
                instruction: instruction,
                isSecret: isSecret,
                attempt: attempt
            )
        }
        call.suspend()
        defer { wipe() }
        return answers
    }

    private func ask() {
        isWaiting = true
        asked += questions.count
        session.stopPhaseTimer()
        let (questions, prompt, loop) = (questions, prompt, session.loop)
        let attempt = LoopBound(self, on: loop)
        Task {
            var answers: [[UInt8]]? = []
            for question in questions {
                guard let answer = await prompt(question) else {
                    answers = nil
                    break
                }
                answers?.append(answer)
            }
            let given = answers
            loop.submit { attempt.withValue { $0.answered(given) } }
        }
    }

    private func answered(_ answers: [[UInt8]]?) {
        guard !isStopped else { return }
        isWaiting = false
        guard let answers else {
            stop()
            session.abandonCall()
            return completion(.abandoned)
        }
        self.answers = answers
        session.startAuthenticationTimer()
        session.scheduleDrive()
    }

    private func ended(_ result: Int32) {
        call = nil
        session.library.answerQuestions = nil
        switch (result, session.library.authenticationFailure) {
        case (0, _): completion(.accepted)
        case (LIBSSH2_ERROR_AUTHENTICATION_FAILED, let failure?) where failure.isPartialSuccess:
            completion(.partial(failure.methods))
        case (LIBSSH2_ERROR_AUTHENTICATION_FAILED, _): completion(.refused(asked: asked))
        default: completion(.failed(session.error(result)))
        }
    }

    private func wipe() {
        for index in answers.indices {
            answers[index].withUnsafeMutableBytes { if let base = $0.baseAddress { explicit_bzero(base, $0.count) } }
        }
        answers = []
    }
}
