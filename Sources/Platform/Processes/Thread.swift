import Glibc

/// Runs `body`, which may block, on a new thread that ends with it; on the caller's where no thread can be had: better
/// late than never.
package func startThread(_ body: @escaping @Sendable () -> Void) {
    do throws(SystemError) { try startOwnThread(body) } catch { body() }
}

/// Runs `body`, which may block, on a new thread that ends with it.
///
/// - Throws: why no thread can be had; `body` is not run then.
package func startOwnThread(_ body: @escaping @Sendable () -> Void) throws(SystemError) {
    final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
    let context = Unmanaged.passRetained(Body(body))
    var thread = pthread_t()
    let code = pthread_create(
        &thread,
        nil,
        { context in
            if let context { Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run() }
            return nil
        },
        context.toOpaque()
    )
    guard code == 0 else {
        context.release()
        throw SystemError(code)
    }
    pthread_detach(thread)
}
