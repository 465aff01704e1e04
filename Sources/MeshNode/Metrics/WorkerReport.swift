import MeshPaths
import MeshPolicy

/// What one event loop tells when somebody asks.
struct WorkerReport: Sendable {
    struct PeerReport: Sendable {
        let name: String
        let paths: [PathReport]
    }

    var fronts: [FrontStatistics] = []
    var pathChanges: [PathChangeKind: UInt64] = [:]
    var peers: [PeerReport] = []
    /// Clients that have not said yet what they want.
    var newcomers = 0

    /// What all of them tell together; peers are one for each loop still.
    static func sum(_ reports: [WorkerReport]) -> WorkerReport {
        reports.reduce(into: WorkerReport()) { sum, report in
            for front in report.fronts {
                if let index = sum.fronts.firstIndex(where: { $0.front == front.front }) {
                    sum.fronts[index].add(front)
                } else {
                    sum.fronts.append(front)
                }
            }
            sum.pathChanges.merge(report.pathChanges, uniquingKeysWith: &+)
            sum.peers += report.peers
            sum.newcomers += report.newcomers
        }
    }
}
