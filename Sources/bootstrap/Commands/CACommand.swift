import ArgumentParser

struct CACommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ca",
        abstract: "The certificate authority that vouches for this mesh's identities.",
        discussion: """
            A CA is a key and a certificate in a directory on the operator's machine: $BOOTSTRAP_HOME/ca, by default \
            ~/.bootstrap/ca. Its key never leaves it. Devices make their own keys, and `enroll` has them signed here; \
            `issue` and `sign` do the same by hand.

              bootstrap ca init --trust-domain mesh.example
              bootstrap ca issue --id ns/prod/sa/db --out ./db
              bootstrap ca sign --id ns/prod/sa/db < request.pem > chain.pem
            """,
        subcommands: [
            CAInit.self, CAIssue.self, CASign.self, CABundle.self, CARotate.self, CAServe.self,
            CASSHCommand.self,
        ]
    )
}
