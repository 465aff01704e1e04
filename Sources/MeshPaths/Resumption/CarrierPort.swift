import CLinux
import Streams

/// A resumable stream as its carrier sees it: one end of what joins the two, the other end is the carrier. Made anew
/// for each carrier, so that what an old one still says reaches nobody.
final class CarrierPort: ByteStream {
    /// Until the carrier was left.
    private var stream: ResumableStream?
    /// A read found nothing.
    var readerWaits = false
    /// The reader was told of something that goes with what else the connection sends.
    var readerMayWait = false
    /// A write was refused.
    var writerWaits = false

    init(of stream: ResumableStream) {
        self.stream = stream
        super.init(loop: stream.loop)
    }

    func leave() { stream = nil }

    override var peerDescription: String { "a resumable stream" }

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        stream?.fill(buffer) ?? refuseRead()
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        stream?.take(vectors) ?? refuseWrite()
    }

    /// The carrier's other side says no more.
    override func finish() { stream?.carrierEnded(self) }

    override func reset(_ reason: StreamError) { stream?.detached(self, reason) }

    override func close() { stream?.carrierClosed(self) }
}
