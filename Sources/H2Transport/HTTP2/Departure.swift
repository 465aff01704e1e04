import Streams

/// Lets a stream go whose last words matter (GOAWAY): finishes it, and drops what still comes until the peer has closed
/// too. Closing a socket with bytes unread would turn into a reset that overtakes the words. Its timer, which the loop
/// holds, keeps it alive meanwhile; a loop that stops lets it go.
final class Departure: StreamObserver {
    private let stream: ByteStream
    private weak var timer: LoopTimer?
    private var rest = 1 << 20

    /// How long the peer may take. Whoever is told to go away has no reason to stay.
    private static let patience = Duration.seconds(1)

    init(of stream: ByteStream) {
        self.stream = stream
        stream.observer = self
        let timer = LoopTimer(on: stream.loop) { [self] in end() }
        self.timer = timer
        timer.schedule(after: Self.patience)
        stream.finish()
        stream.loop.later { [self] in discard() }
    }

    func streamReadable(_ stream: ByteStream) { discard() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { end() }

    private func discard() {
        guard timer != nil else { return }
        let scratch = stream.loop.buffers.take(.medium)
        defer { stream.loop.buffers.give(scratch) }
        while rest > 0 {
            switch stream.read(into: scratch.writable) {
            case .bytes(let count): rest -= count
            case .wouldBlock: return
            case .end, .failed: return end()
            }
        }
        end()
    }

    private func end() {
        guard let timer else { return }
        self.timer = nil
        timer.cancel()
        stream.observer = nil
        stream.close()
    }
}
