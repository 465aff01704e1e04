import Glibc

/// Runs `body`, which may block, on a new thread that ends with it; on the caller's where no thread can be had: better late
/// than never.
package func startThread(_ body: @escaping @Sendable () -> Void) {
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
    if code == 0 {
        pthread_detach(thread)
    } else {
        context.takeRetainedValue().run()
    }
}
