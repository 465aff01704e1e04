import Streams

/// What authentication needs of the session that it is for: its calls into libssh2, its patience, and its words for
/// errors.
protocol AuthenticatingSession: AnyObject {
    var loop: EventLoop { get }
    var configuration: SSHSessionConfiguration { get }
    var library: LibSSH2Session { get }
    var peerDescription: String { get }

    /// The server has ended the connection: libssh2 calls that an answer that does not come.
    var isCut: Bool { get }

    /// Repeats `call` until it does not say EAGAIN, then hands its result to `then`. One call at a time.
    func perform(_ call: @escaping () -> Int32, then: @escaping (Int32) -> Void)
    /// Forgets the call that is under way.
    func abandonCall()
    /// Has the call that is under way repeated soon: what it waits for is there.
    func scheduleDrive()

    /// Ends the session when `what` takes longer than `timeout`.
    func startPhaseTimer(_ timeout: Duration, _ what: String)
    /// A person is asked, who may take all the time.
    func stopPhaseTimer()

    /// An error of libssh2 in words.
    func error(_ code: Int32) -> SSHError
}

extension AuthenticatingSession {
    /// The server has this long for its next answer.
    func startAuthenticationTimer() { startPhaseTimer(configuration.authenticationTimeout, "SSH authentication") }
}
