import MeshPaths
import MeshPolicy

/// What one event loop tells when somebody asks.
struct WorkerReport: Sendable {
    struct PeerReport: Sendable {
        let name: String
        let paths: [PathReport]
        /// What streams have carried over each of them.
        let traffic: [PathID: PathTraffic]
    }

    var fronts: [FrontStatistics] = []
    var pathChanges: [PathChangeKind: UInt64] = [:]
    var peers: [PeerReport] = []
    /// Clients that have not said yet what they want.
    var newcomers = 0
    /// Connections that peers hold to this node.
    var held: [HeldConnections.Report] = []
    /// Gateways that this node is reached through.
    var gateways: [GatewayDialer.Report] = []

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
            sum.held += report.held
            sum.gateways += report.gateways
        }
    }
}
