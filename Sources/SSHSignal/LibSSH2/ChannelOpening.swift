import Streams

/// A channel that is asked for (RFC 4254 §5.1) and not answered yet.
final class ChannelOpening {
    let kind: ChannelKind
    /// The receive window to begin with; the channel opens with half of it.
    var window: Int
    var completion: ((Result<SSHChannel, SSHError>) -> Void)?
    var timer: LoopTimer?
    /// Runs while the opening waits for other commands to end, and until when it does.
    var patience: (timer: LoopTimer, until: UInt64)?

    init(_ kind: ChannelKind, window: Int, completion: ((Result<SSHChannel, SSHError>) -> Void)?) {
        self.kind = kind
        self.window = window
        self.completion = completion
    }
}

/// A command or subsystem that is asked for on a session channel and not answered yet.
struct PendingRequest {
    let channel: SSHChannel
    let request: ProcessRequest
    let completion: (SSHError?) -> Void
    let timer: LoopTimer
}
