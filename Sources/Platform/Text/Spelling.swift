/// What somebody probably meant who has mistyped a word.
package enum Spelling {
    /// The word that is nearest to one that is none of them; nil where none is near.
    package static func nearest(to word: String, among words: some Sequence<String>) -> String? {
        var nearest = max(1, word.count / 3) + 1
        var guess: String?
        for candidate in words {
            let distance = distance(word, candidate)
            if distance < nearest { (nearest, guess) = (distance, candidate) }
        }
        return guess
    }

    /// How many letters are to be added, removed, changed or swapped (optimal string alignment).
    package static func distance(_ one: String, _ other: String) -> Int {
        let (a, b) = (Array(one), Array(other))
        var table = Array(repeating: Array(repeating: 0, count: b.count + 1), count: a.count + 1)
        for i in 0...a.count { table[i][0] = i }
        for j in 0...b.count { table[0][j] = j }
        for i in a.indices {
            for j in b.indices {
                var best = min(table[i][j + 1] + 1, table[i + 1][j] + 1, table[i][j] + (a[i] == b[j] ? 0 : 1))
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { best = min(best, table[i - 1][j - 1] + 1) }
                table[i + 1][j + 1] = best
            }
        }
        return table[a.count][b.count]
    }
}
