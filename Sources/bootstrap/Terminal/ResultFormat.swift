import ArgumentParser
import Fleet

/// What a command prints on stdout: a word for people, or something for programs.
enum ResultFormat: String, ExpressibleByArgument, CaseIterable {
    case text
    /// As the command's help has it; what is for people goes to stderr.
    case json

    /// A line for people.
    func say(_ text: String) {
        switch self {
        case .text: printDone(text)
        case .json: printNotice(text)
        }
    }

    /// A line for programs; nothing otherwise.
    func tell(_ value: some Encodable) {
        guard self == .json else { return }
        printJSON(value)
    }

    var report: HostReport {
        var report = HostReport.standard
        report.say = { say($0) }
        report.outcome = { tell($0) }
        return report
    }
}
