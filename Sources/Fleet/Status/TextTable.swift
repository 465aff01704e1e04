/// Rows of texts in aligned columns, which fit on every terminal.
enum TextTable {
    /// What every terminal has.
    private static let width = 80
    /// A text that is cut keeps so many characters, the mark of the cut among them.
    private static let least = 12

    /// - Parameters:
    ///   - rows: Equally long; the first is the heading.
    ///   - flexible: Which columns are cut where a row would be too long, those first that come first here.
    static func lines(_ rows: [[String]], flexible: [Int]) -> [String] {
        guard let heading = rows.first else { return [] }
        var widths = heading.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        for column in flexible {
            let excess = widths.reduce(2 * (widths.count - 1), +) - width
            widths[column] -= min(max(0, excess), max(0, widths[column] - least))
        }
        return rows.map { row in
            let texts = zip(row, widths).map { text, width in
                text.count <= width
                    ? text + String(repeating: " ", count: width - text.count) : "\(text.prefix(width - 1))…"
            }
            // The last column is not padded.
            var line = texts.joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}
