import Glibc
import Streams

/// A file for all recorded streams, which grows to a limit and no further. Used on one event loop: the node has one.
final class Record: @unchecked Sendable {
    // Sendable: used by filters only, all of which are called on the node's one event loop.
    private let descriptor: Int32
    private var room: Int

    init(path: String, limit: Int) {
        descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { fatalError("\(path): \(String(cString: strerror(errno)))") }
        room = limit
    }

    deinit { close(descriptor) }

    /// Short writes to a file are quick; a recorder for more would have a thread of its own.
    func append(_ bytes: UnsafeRawBufferPointer) {
        let count = min(bytes.count, room)
        guard count > 0, write(descriptor, bytes.baseAddress, count) == count else { return }
        room -= count
    }

    func append(_ text: String) {
        var text = text
        text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
    }
}

/// Writes down what goes through, and changes nothing.
final class Recorder: StreamFilter {
    private let record: Record
    private var direction: StreamDirection?

    init(_ record: Record) { self.record = record }

    func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
        if self.direction != direction {
            self.direction = direction
            record.append(direction == .toDestination ? "\n> " : "\n< ")
        }
        record.append(bytes)
        return .pass(bytes.count)
    }

    func end(_ failure: StreamError?) { record.append("\n\(failure.map { "cut: \($0)" } ?? "ended")\n") }
}
