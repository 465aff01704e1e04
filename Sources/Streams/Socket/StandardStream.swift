import CLinux
import Glibc
import Platform

/// Standard input and output as one byte stream, whatever they are.
///
/// Two threads copy between them and a socket pair: epoll takes no files, and to make an inherited descriptor
/// non-blocking would change it for every process that has it.
package struct StandardStream {
    /// Its end is that of standard input; what is written to it goes to standard output.
    package let stream: Socket
    /// Yields once everything that was written to ``stream`` is in standard output: 0, or the error number of the write
    /// that failed.
    package let written: AsyncStream<Int32>

    /// Loop only. The process's standard input and output belong to the stream from now on.
    package init(on loop: EventLoop) throws(StreamError) {
        let (socket, descriptor) = try Socket.pairWithDescriptor(on: loop)
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
        let written = AsyncStream<Int32>.makeStream()
        stream = socket
        self.written = written.stream
        // The first thread waits for the second: alone it must not have touched anything.
        let gate = Lock(false)
        let failure: SystemError? = gate.withLock { isOpen in
            do throws(SystemError) {
                try startOwnThread {
                    guard gate.withLock({ $0 }) else { return }
                    copy(from: STDIN_FILENO) { send(descriptor, $0, $1, Int32(MSG_NOSIGNAL)) }
                    // The end travels on; the other direction goes on.
                    shutdown(descriptor, Int32(SHUT_WR))
                }
                try startOwnThread {
                    let failure = copy(from: descriptor) { write(STDOUT_FILENO, $0, $1) }
                    // Whoever reads standard output sees its end at once; nobody to read it ends everything.
                    let nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC)
                    if nowhere >= 0 { dup2(nowhere, STDOUT_FILENO) }
                    if failure != 0 { shutdown(descriptor, Int32(SHUT_RDWR)) }
                    written.continuation.yield(failure)
                    written.continuation.finish()
                }
                isOpen = true
                return nil
            } catch {
                return error
            }
        }
        guard let failure else { return }
        socket.close()
        _ = Glibc.close(descriptor)
        throw StreamError.system(failure.number, "start a thread for standard input and output")
    }
}

/// Returns the error number when the destination takes no more, else 0.
@discardableResult
private func copy(from source: Int32, to sink: (UnsafeRawPointer, Int) -> Int) -> Int32 {
    withUnsafeTemporaryAllocation(byteCount: 65536, alignment: 16) { buffer in
        guard let base = buffer.baseAddress else { return ENOMEM }
        while true {
            let count = read(source, base, buffer.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return 0 }
            var done = 0
            while done < count {
                let result = sink(base + done, count - done)
                if result < 0 && errno == EINTR { continue }
                guard result > 0 else { return result < 0 ? errno : EIO }
                done += result
            }
        }
    }
}
