import CLinux
import Glibc

/// What is sent to the server: bytes in memory, or a local file that is read piece by piece.
public struct UploadSource: Sendable {
    fileprivate enum Kind {
        case bytes([UInt8])
        case file(path: String)
    }

    fileprivate let kind: Kind

    /// Bytes in memory; they are kept until the upload is over.
    public static func bytes(_ bytes: some Collection<UInt8>) -> UploadSource {
        UploadSource(kind: .bytes(Array(bytes)))
    }

    /// A regular file of this machine. It is opened when the upload begins, and its size counts as it is then.
    public static func file(path: String) -> UploadSource { UploadSource(kind: .file(path: path)) }

    func open() throws(SSHError) -> UploadReader { try UploadReader(self) }
}

/// Reads an ``UploadSource`` from front to back. Its size is fixed when it is opened.
final class UploadReader {
    let size: UInt64
    /// Bytes read so far.
    private(set) var offset: UInt64 = 0
    private let bytes: [UInt8]
    private let descriptor: Int32
    private let path: String

    fileprivate init(_ source: UploadSource) throws(SSHError) {
        switch source.kind {
        case .bytes(let bytes):
            self.bytes = bytes
            size = UInt64(bytes.count)
            descriptor = -1
            path = ""
        case .file(let path):
            bytes = []
            self.path = path
            // A named pipe would hold us before it can be refused.
            let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
            guard descriptor >= 0 else { throw SSHError(.system, "\(path): \(String(cString: strerror(errno)))") }
            var status = stat()
            guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
                Glibc.close(descriptor)
                throw SSHError(.system, "\(path) is not a regular file")
            }
            self.descriptor = descriptor
            size = UInt64(status.st_size)
        }
    }

    deinit { if descriptor >= 0 { Glibc.close(descriptor) } }

    /// Fills `buffer` as far as there are bytes left.
    func read(into buffer: UnsafeMutableRawBufferPointer) throws(SSHError) -> Int {
        let wanted = Int(min(UInt64(buffer.count), size - offset))
        let target = UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted])
        if descriptor < 0 {
            target.copyBytes(from: bytes[Int(offset)..<Int(offset) + wanted])
            offset += UInt64(wanted)
            return wanted
        }
        var done = 0
        while done < wanted, let base = target.baseAddress {
            let count = pread(descriptor, base + done, wanted - done, off_t(offset))
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                let why = count == 0 ? "it became shorter while it was sent" : String(cString: strerror(errno))
                throw SSHError(.transferFailed, "\(path): \(why)")
            }
            done += count
            offset += UInt64(count)
        }
        return wanted
    }
}
