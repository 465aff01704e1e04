import Platform

/// The lines that are said on a control socket: words with tabs between them. Ours alone, and not those of ssh's
/// multiplexing, whose control sockets are left alone.
///
/// ```
///   master → client   bootstrap-control  1  PID              the greeting, before anything is asked
///   client → master   open     PEER  PATH-PREFERENCE         once, first
///                     check | exit
///                     paths                                  ok  JSON  LINES…: as GET /paths of a node, and what listens
///                     forward  L|R|D  TEXT  bound|kept        bound: until the client has gone
///                     cancel   L|R|D  TEXT
///                     stdio    HOST:PORT                     then frames (FramedStream) both ways
///   master → client   ok  WORDS…  |  no  EXIT-CODE  MESSAGE   to each of these, in their order
///                     say  LINE                              meanwhile: what became of the paths
/// ```
enum ControlMessage {
    static let greeting = "bootstrap-control"
    static let version = "1"
    /// Bytes of a line: longer than any that a client has reason to say.
    static let longestRequest = 16 << 10
    /// Of one of a master: with each path and thousands of forwards.
    static let longestAnswer = 4 << 20

    static func line(_ words: [String]) -> String {
        words.map { word in String(Printable.cleanText(word).map { $0.isNewline || $0 == "\t" ? " " : $0 }) }
            .joined(separator: "\t") + "\n"
    }

    static func words(_ line: String) -> [String] {
        line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
    }

    /// Whether `text`, of -L, -R or -D, can be said in a line.
    static func carries(_ text: String) -> Bool { !text.contains { $0.isNewline || $0 == "\t" } }
}
