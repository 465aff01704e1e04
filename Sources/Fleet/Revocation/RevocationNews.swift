import Platform
package import SSHSignal
import Streams

/// Has everybody know what an enrolment or a renewal has revoked on its way: writes the list, and brings it to every
/// device. The devices have their certificates: what goes wrong here is said, and fails nothing.
package struct RevocationNews: Sendable {
    private let parallel: Int
    private let records: DeviceDirectory
    private let publisher: RevocationPublisher?
    private let prompts: SSHLogin.Prompts
    private let report: HostReport

    /// - Parameters:
    ///   - parallel: How many devices at a time.
    ///   - records: Which devices there are. They are reached as they were recorded.
    ///   - publisher: nil where somebody else's CA signs.
    ///   - prompts: Who answers what a login asks.
    ///   - report: What came of it; it complains of nothing.
    package init(
        parallel: Int,
        records: DeviceDirectory,
        publisher: RevocationPublisher?,
        prompts: SSHLogin.Prompts,
        report: HostReport
    ) {
        self.parallel = parallel
        self.records = records
        self.publisher = publisher
        self.prompts = prompts
        self.report = report
    }

    /// - Parameter names: The devices whose earlier certificates were revoked.
    package func callAsFunction(of names: [String]) async {
        guard let publisher else {
            return report.warn(
                "earlier certificates of \(names.joined(separator: ", ")) are to be revoked at the CA that has signed them, too"
            )
        }
        let fix =
            "`bootstrap revoke`, without a name, writes the list and brings it to everybody; so does the next renewal"
        let delivery = RevocationDelivery(
            parallel: parallel,
            records: records,
            publisher: publisher,
            logins: LoginOptions(SSHArguments(), prompts: prompts),
            report: HostReport(
                say: report.say,
                warn: report.warn,
                complain: { [report] in report.warn("not told what was revoked: \($0)") }
            )
        )
        let lists: [UInt8]
        do throws(LedgerError) {
            lists = try publisher.publish()
            report.say("wrote \(publisher.path)")
            let foreign = try publisher.comparison().foreign.filter { names.contains($0.device ?? "") }
            if let remark = ListComparison.remark(onForeign: foreign) { report.warn(remark) }
        } catch {
            return report.warn(
                "no device refuses the earlier certificates of \(names.joined(separator: ", ")) yet: \(error.message). \(fix)"
            )
        }
        do throws(DeviceDirectoryError) {
            guard let failures = try await delivery(lists) else { return }
            report.warn(
                "\(counted(failures.count, "device does", plural: "devices do")) not know yet what was revoked: \(fix)"
            )
        } catch {
            report.warn("the others do not know yet what was revoked: \(error.message): \(fix)")
        }
    }
}
