import Platform

/// Prints one object on a line of stdout, for programs: nothing of it is lost, and a terminal takes no orders from it.
func printJSON(_ value: some Encodable) {
    guard let bytes = try? JSONText.encode(value) else { return }
    let line = Printable.escapeJSON(String(decoding: bytes, as: UTF8.self))
    _ = writeStandardOutput(Array("\(line)\n".utf8))
}
