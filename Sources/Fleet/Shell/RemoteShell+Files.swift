import Platform

extension RemoteShell {
    private static let bytesPerBlock = 192 << 10
    /// What a block may print: there is a mark before each line, and a line may be empty.
    private static let blockLimit = 6 * bytesPerBlock + 4096

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
        var block = 0
        let deadline = ContinuousClock.now + patience
        while true {
            // dd goes to the place without reading what is before it. The block may end within a line: the stroke
            // behind it says so, and is a line of its own where it does not.
            let script = """
                f=\(ShellScript.quote(file))
                [ -r "$f" ] && [ -f "$f" ] && dd if="$f" bs=\(Self.bytesPerBlock) skip=\(block) count=1 2>/dev/null | sed 's/^/line:/' && echo '|'
                """
            let output = try await run(script, step: step, limit: Self.blockLimit)
            guard output.status == 0 else { return nil }
            let before = text.count
            for line in output.lines where line.hasPrefix("line:") {
                text += line.dropFirst(5).utf8
                text.append(UInt8(ascii: "\n"))
            }
            if output.lines.last != "|" {
                // The stroke stands behind a line that the block has cut. Whoever leaves it out answers something else.
                guard text.count >= before + 2, text[text.count - 2] == UInt8(ascii: "|") else { return nil }
                // Both the end of the line and the stroke.
                text.removeLast(2)
            }
            guard text.count - before >= Self.bytesPerBlock, text.count < limit else { return (text, false) }
            guard ContinuousClock.now < deadline else { return (text, true) }
            block += 1
        }
    }
}
