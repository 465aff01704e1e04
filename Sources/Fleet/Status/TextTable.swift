/// Rows of texts in aligned columns.
enum TextTable {
    /// What every terminal has.
    private static let width = 80

    /// - Parameters:
    ///   - rows: Equally long; the first is the heading.
    ///   - required: So many columns always; of the others as many as fit.
    static func lines(_ rows: [[String]], required: Int) -> [String] {
        guard let heading = rows.first else { return [] }
        let widths = heading.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        let count = (required...heading.count).last { widths[..<$0].reduce(2 * ($0 - 1), +) <= width } ?? required
        return rows.map { row in
            // The last column is not padded.
            let padded = zip(row[..<(count - 1)], widths).map { text, width in
                text + String(repeating: " ", count: width - text.count)
            }
            return (padded + [row[count - 1]]).joined(separator: "  ")
        }
    }
}
