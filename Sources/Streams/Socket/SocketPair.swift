import CLinux
import Glibc

extension Socket {
    /// Two connected sockets of one loop, for tests and bridges.
    public static func pair(on loop: EventLoop) throws(StreamError) -> (Socket, Socket) {
        var descriptors: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &descriptors) == 0 else { throw .system(errno, "socketpair") }
        let first: Socket
        do {
            first = try Socket(descriptor: descriptors[0], on: loop)
        } catch {
            _ = Glibc.close(descriptors[1])
            throw error
        }
        do {
            return (first, try Socket(descriptor: descriptors[1], on: loop))
        } catch {
            first.close()
            throw error
        }
    }

    /// A socket of `loop`, and the descriptor of the other end, for code that has its own way to wait: the caller's to
    /// close. Non-blocking, close-on-exec, AF_UNIX. Loop only.
    public static func pairWithDescriptor(on loop: EventLoop) throws(StreamError) -> (socket: Socket, descriptor: Int32)
    {
        var descriptors: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &descriptors) == 0 else { throw .system(errno, "socketpair") }
        do {
            return (try Socket(descriptor: descriptors[0], on: loop), descriptors[1])
        } catch {
            _ = Glibc.close(descriptors[1])
            throw error
        }
    }
}
