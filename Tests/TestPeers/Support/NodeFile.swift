/// Configurations of nodes that several suites start.
public enum NodeFile {
    /// A server that lets the namespace `prod` reach these ports of its own machine.
    ///
    /// - Parameters:
    ///   - identity: The credential directory.
    ///   - ports: What the policy names.
    ///   - bind: The port of its HBONE listener on 127.0.0.1; 0 lets the kernel choose.
    public static func server(identity: String, ports: [UInt16], bind: UInt16 = 0) -> String {
        """
        identity: \(identity)
        listeners:
        - {name: hbone, bind: "127.0.0.1:\(bind)", protocol: hbone}
        policy:
        - name: backend
          action: ALLOW
          rules:
          - from: [{namespaces: [prod]}]
            to: [{hosts: ["127.0.0.1"], ports: [\(ports.map(String.init).joined(separator: ", "))]}]
        """
    }

    /// A node whose port leads to another port of this machine, without HBONE.
    ///
    /// - Parameters:
    ///   - more: Further lines of the configuration.
    public static func forwarding(identity: String, bind: UInt16, to port: UInt16, _ more: String = "") -> String {
        """
        identity: \(identity)
        listeners:
        - {name: in, bind: "127.0.0.1:\(bind)", protocol: tcp, forwardTo: "127.0.0.1:\(port)"}
        endpoints:
        - {match: "127.0.0.1:*", direct: true}
        \(more)
        """
    }
}
