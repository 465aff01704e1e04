/// A line that comes before what a command prints: what stands before it is from the account's rc files, which some
/// shells read for every command.
struct ShellMark {
    let text = "mark-\(String(UInt64.random(in: .min ... .max), radix: 16))"

    /// Prints it.
    var command: String { "echo \(text)" }

    /// What comes behind the line; all, where there is none.
    func behind(_ output: [UInt8]) -> [UInt8] {
        let line = Array("\(text)\n".utf8)
        guard output.count >= line.count else { return output }
        for start in 0...(output.count - line.count) where output[start] == line[0] {
            guard output[start..<(start + line.count)].elementsEqual(line) else { continue }
            return Array(output[(start + line.count)...])
        }
        return output
    }
}
