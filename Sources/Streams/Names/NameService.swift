import Platform

/// What a ``NameResolver`` does on its loop: takes questions, has each name looked up once, in turn, and answers.
final class NameService {
    typealias Answer = @Sendable (Result<[SocketAddress], StreamError>) -> Void

    private final class Question {
        let host: String
        let requester: String
        let answer: Answer
        var timer: LoopTimer?

        init(_ host: String, for requester: String, _ answer: @escaping Answer) {
            self.host = host
            self.requester = requester
            self.answer = answer
        }
    }

    private struct Lookup {
        var questions: [ObjectIdentifier: Question] = [:]
        var isUnderWay = false
    }

    private let loop: EventLoop
    private let limits: LookupLimits
    private let sources: NameSourceReader
    private var queue: LookupQueue
    private var lookups: [String: Lookup] = [:]

    init(on loop: EventLoop, files: NameFiles, limits: LookupLimits) {
        self.loop = loop
        self.limits = limits
        sources = NameSourceReader(on: loop, files: files, limits: limits)
        queue = LookupQueue(limits)
    }

    func ask(_ host: String, for requester: String, _ answer: @escaping Answer) {
        guard let name = Self.normal(host) else {
            return answer(.failure(StreamError(.unreachable, "'\(Printable.escape(host))' is no host name")))
        }
        guard queue.ask(name, for: requester) else {
            let reason = "too many names wait to be looked up; try again later"
            return answer(.failure(StreamError(.limit, "'\(Printable.escape(host))' is not looked up: \(reason)")))
        }
        let question = Question(host, for: requester, answer)
        let timer = LoopTimer(on: loop) { [weak self, weak question] in
            if let self, let question { giveUp(question, name) }
        }
        question.timer = timer
        timer.schedule(after: limits.patience)
        lookups[name, default: Lookup()].questions[ObjectIdentifier(question)] = question
        startNext()
    }

    /// The spelling that is asked for; nil for what is no name. An address with a scope that there is not here is none.
    static func normal(_ host: String) -> String? {
        let bytes = host.utf8
        guard (1...254).contains(bytes.count), bytes.first != UInt8(ascii: "-") else { return nil }
        guard bytes.allSatisfy({ $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: ":") && $0 != UInt8(ascii: "%") }) else {
            return nil
        }
        return host.lowercased()
    }

    private func startNext() {
        while let name = queue.next() {
            lookups[name]?.isUnderWay = true
            sources.look(up: name) { [self] result in ended(name, result) }
        }
    }

    private func ended(_ name: String, _ result: Result<[SocketAddress], NameSourceReader.Failure>) {
        queue.ended(name)
        for question in (lookups.removeValue(forKey: name)?.questions ?? [:]).values {
            let host = Printable.escape(question.host)
            settle(question, result.mapError { StreamError($0.code, "'\(host)' does not resolve: \($0.reason)") })
        }
        startNext()
    }

    private func giveUp(_ question: Question, _ name: String) {
        guard lookups[name]?.questions.removeValue(forKey: ObjectIdentifier(question)) != nil else { return }
        if let lookup = lookups[name], lookup.questions.isEmpty, !lookup.isUnderWay {
            lookups[name] = nil
            queue.abandon(name)
        }
        let reason = "no answer within \(limits.patience)"
        let host = Printable.escape(question.host)
        settle(question, .failure(StreamError(.timedOut, "'\(host)' does not resolve: \(reason)")))
    }

    private func settle(_ question: Question, _ result: Result<[SocketAddress], StreamError>) {
        question.timer?.cancel()
        question.timer = nil
        queue.answered(question.requester)
        question.answer(result)
    }
}
