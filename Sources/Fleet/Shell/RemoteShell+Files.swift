import Platform

extension RemoteShell {
    /// Lines of one block: PEM has 64 characters a line, and a block's output is bounded.
    private static let linesPerBlock = 3000

    /// The text of a file with short lines, such as PEM; nil where there is none that this account can read. Only of a
    /// regular file: a named pipe gives nothing, and takes its time.
    ///
    /// What is read is as hostile as everything that the far side says. It may change while it is read.
    ///
    /// - Parameters:
    ///   - limit: The file is cut off behind so many bytes.
    ///   - patience: Nothing more is asked for after this.
    /// - Returns: What there is, and whether the time was over before the file was.
    func text(
        of file: String,
        limit: Int,
        step: String,
        within patience: Duration = .seconds(60)
    ) async throws -> (bytes: [UInt8], isCut: Bool)? {
        var text: [UInt8] = []
        var first = 1
        let deadline = ContinuousClock.now + patience
        while true {
            let last = first + Self.linesPerBlock - 1
            let script = """
                f=\(ShellScript.quote(file))
                [ -f "$f" ] && [ -r "$f" ] && sed -n '\(first),\(last)s/^/line:/p' "$f"
                """
            let output = try await run(script, step: step)
            guard output.status == 0 else { return nil }
            let lines = output.lines.filter { $0.hasPrefix("line:") }
            for line in lines { text += line.dropFirst(5).utf8 + [UInt8(ascii: "\n")] }
            guard lines.count == Self.linesPerBlock, text.count < limit else { return (text, false) }
            guard ContinuousClock.now < deadline else { return (text, true) }
            first = last + 1
        }
    }
}
