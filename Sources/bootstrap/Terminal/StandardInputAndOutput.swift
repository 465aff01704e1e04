import Glibc
import Synchronization

/// All of stdin, up to a limit.
///
/// - Returns: nil if there is more than `limit` bytes, or reading fails.
func readStandardInput(limit: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 16 * 1024)
    while true {
        let count = read(STDIN_FILENO, &chunk, chunk.count)
        if count == 0 { return bytes }
        if count < 0 {
            if errno == EINTR { continue }
            return nil
        }
        bytes.append(contentsOf: chunk[..<count])
        if bytes.count > limit { return nil }
    }
}

/// The error number of the first write to stdout that failed; 0: none has.
private let outputFailure = Mutex<Int32>(0)

/// The standard descriptors are there, whoever started us: a file that takes the place of a closed one would get what
/// is printed. Nothing can be written to those that are opened here, so that output without a place is an error.
func openStandardDescriptors() {
    for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
        // The lowest number that is free, which is this one.
        _ = open("/dev/null", descriptor == STDIN_FILENO ? O_RDWR : O_RDONLY)
    }
}

/// Whatever was printed is written out.
///
/// - Returns: The error number of a write to stdout that failed in the meantime; nil: none has.
func standardOutputFailure() -> Int32? {
    let buffered = fflush(nil) == 0 ? 0 : errno
    let failure = outputFailure.withLock { $0 }
    return failure != 0 ? failure : buffered != 0 ? buffered : nil
}

/// Writes all bytes to stdout; false if it fails (a full disk, a closed pipe).
///
/// - Parameter isResult: That they are lost makes the command fail.
func writeStandardOutput(_ bytes: [UInt8], isResult: Bool = true) -> Bool {
    bytes.withUnsafeBytes { buffer in
        var rest = buffer
        while !rest.isEmpty {
            let count = write(STDOUT_FILENO, rest.baseAddress, rest.count)
            if count < 0 {
                let number = errno
                if number == EINTR { continue }
                if isResult { outputFailure.withLock { if $0 == 0 { $0 = number } } }
                return false
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
        return true
    }
}
