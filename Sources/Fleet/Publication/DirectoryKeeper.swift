/// Has the mesh's directory say what the ledger does, for a command that goes on for ever: at its start, after each
/// change that it makes, and again and again, since another command may have found the directory away.
package struct DirectoryKeeper: Sendable {
    /// - Returns: What has come of it, for people; nil: nothing had to be written.
    package typealias Publish = @Sendable () async throws -> String?

    private let publish: Publish
    private let report: HostReport
    private let pause: Duration
    /// Those that came while one is published are one.
    private let looks: AsyncStream<Void>
    private let look: AsyncStream<Void>.Continuation

    /// - Parameters:
    ///   - report: What came of it; a problem that stays is told once.
    ///   - pause: How long to wait before it is looked at again, where nobody asks.
    ///   - publish: Writes what the ledger says.
    package init(report: HostReport, pause: Duration = .seconds(60), publish: @escaping Publish) {
        self.report = report
        self.pause = pause
        self.publish = publish
        (looks, look) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    /// The ledger says something else.
    package func changed() { look.yield() }

    /// Until the task is cancelled. To be called once.
    package func run() async {
        var said: String?
        var timer: Task<Void, Never>?
        defer { timer?.cancel() }
        look.yield()
        for await _ in looks {
            timer?.cancel()
            var problem: String?
            do {
                if let news = try await publish() { report.say(news) }
            } catch {
                // What was cut off is no news.
                guard !Task.isCancelled else { return }
                problem = "\(error)"
            }
            if let problem, problem != said {
                report.warn("the mesh's directory does not say so yet: \(problem). It is tried again every \(pause)")
            } else if problem == nil, said != nil {
                report.say("the mesh's directory can be written again")
            }
            said = problem
            timer = Task { [look, pause] in
                guard (try? await Task.sleep(for: pause)) != nil else { return }
                look.yield()
            }
        }
    }
}
