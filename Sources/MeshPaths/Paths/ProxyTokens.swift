import Logging
import MeshIdentity
import Platform
import Streams

/// Which token is shown, and when another one is looked for: a value.
///
/// ```
///   nothing ── loaded ──→ held ── a good part of its life is over ──→ held, and another is looked for
///                           └── refused, or ended ──→ nothing is shown before another one is there
/// ```
struct ProxyTokenCache {
    struct Held: Hashable {
        let text: String
        /// When it ends, as it says itself; nil where nobody can tell.
        let end: Int64?
        /// After this another one is to be looked for.
        let use: WallPause
    }

    private(set) var held: Held?
    /// What the proxy did not take.
    private(set) var refused: String?
    /// Nobody looks before: what has failed fails again.
    private var pause: WallPause?

    /// A file may be replaced at any time: it is read again after this long at the latest, in seconds.
    static let longestUse: Int64 = 60
    /// Before its end it is not shown any more: it has a way to go.
    static let margin: Int64 = 5
    private static let pauseAfterFailure: Int64 = 5

    /// What can be shown; nil: nothing.
    func token(at now: Int64) -> String? {
        guard let held, held.text != refused, held.end.map({ now < $0 - Self.margin }) ?? true else { return nil }
        return held.text
    }

    func wantsAnother(at now: Int64) -> Bool {
        if let pause, pause.left(at: now) > 0 { return token(at: now) == nil }
        return held.map { $0.use.left(at: now) == 0 } ?? true
    }

    mutating func loaded(_ text: String, at now: Int64) {
        let end = JSONWebToken.unverifiedEnd(of: text)
        // Four fifths of what is left; one whose end nobody knows is looked at again and again.
        let life = end.map { max(0, $0 - now) * 4 / 5 } ?? Self.longestUse
        held = Held(text: text, end: end, use: WallPause(min(life, Self.longestUse), from: now))
        if text != refused { refused = nil }
    }

    mutating func failed(at now: Int64) { pause = WallPause(Self.pauseAfterFailure, from: now) }

    mutating func refuse(_ text: String) { refused = text }
}

/// The tokens for one proxy. Confined to its loop.
final class ProxyTokens {
    typealias Completion = (Result<String, StreamError>) -> Void

    private let source: ProxyTokenSource
    private let audience: String
    private let loop: EventLoop
    private let logger: Logger
    private let clock: WallClock
    private var cache = ProxyTokenCache()
    private var isLoading = false
    private var waiting: [Completion] = []
    private var toldOfAudience = false

    init(
        _ source: ProxyTokenSource,
        for audience: String,
        clock: WallClock = .system,
        on loop: EventLoop,
        logger: Logger
    ) {
        self.source = source
        self.audience = audience
        self.clock = clock
        self.loop = loop
        self.logger = logger
    }

    /// - Parameter completion: Called once, on the loop, also from inside this call.
    func current(_ completion: @escaping Completion) {
        let now = clock.seconds
        if let token = cache.token(at: now) {
            if cache.wantsAnother(at: now) { load() }
            return completion(.success(token))
        }
        waiting.append(completion)
        load()
    }

    /// The proxy has answered 401 for `token`: another one is looked for, once.
    func another(insteadOf token: String, _ completion: @escaping Completion) {
        cache.refuse(token)
        // Somebody else may have learnt of it before.
        if let other = cache.token(at: clock.seconds) { return completion(.success(other)) }
        waiting.append(completion)
        load()
    }

    private func load() {
        guard !isLoading else { return }
        isLoading = true
        let (source, audience, loop) = (source, audience, loop)
        let owner = LoopBound(self, on: loop)
        // A program takes its time, and so may a file: neither is for the loop to wait for.
        Task {
            let result: Result<String, StreamError>
            do throws(StreamError) {
                result = .success(try await source.load(for: audience))
            } catch {
                result = .failure(error)
            }
            loop.submit { owner.withValue { $0.loaded(result) } }
        }
    }

    private func loaded(_ result: Result<String, StreamError>) {
        isLoading = false
        let now = clock.seconds
        switch result {
        case .success(let text):
            cache.loaded(text, at: now)
            checkAudience(of: text)
        case .failure(let error):
            cache.failed(at: now)
            if waiting.isEmpty { logger.warning("no new token for \(audience): \(error)") }
        }
        let answered = waiting
        waiting = []
        guard !answered.isEmpty else { return }
        let answer: Result<String, StreamError>
        if let token = cache.token(at: now) {
            answer = .success(token)
        } else if case .failure(let error) = result {
            answer = .failure(error)
        } else if cache.held?.text == cache.refused {
            answer = .failure(
                StreamError(.denied, "the proxy does not accept the token, and \(source) has no other one yet")
            )
        } else {
            answer = .failure(
                StreamError(.denied, "the token in \(source) has ended: whoever issues it must replace it")
            )
        }
        for completion in answered { completion(answer) }
    }

    private func checkAudience(of text: String) {
        guard !toldOfAudience, let audiences = JSONWebToken.unverifiedAudiences(of: text),
            !audiences.contains(audience)
        else { return }
        toldOfAudience = true
        logger.warning("the token in \(source) is not for the audience \(audience): the proxy may refuse it")
    }
}
