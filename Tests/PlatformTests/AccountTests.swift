import Platform
import TestPeers
import Testing

@Suite("accounts") struct AccountTests {
    private let directory = TemporaryDirectory()

    @Test("an account is that of the file, whatever else stands there")
    func file() throws {
        let path = try directory.write(
            "passwd",
            """
            # comment:x:7:7::/comment:/bin/sh
            +@netgroup:x:7:7:::
            broken:x:7
            huge:x:99999999999:7::/huge:/bin/sh
            seven:x:7:7:Seven, of Nine:/home/seven:/bin/sh
            again:x:7:7::/home/again:/bin/sh
            """
        )
        let account = Account.find(userID: 7, in: path, getent: nil)
        #expect(account == Account(name: "seven", userID: 7, home: "/home/seven"))
        #expect(Account.find(userID: 8, in: path, getent: nil) == nil)
        #expect(Account.find(userID: 7, in: directory.path("missing"), getent: nil) == nil)
    }

    @Test("what the file does not have is asked for by getent")
    func getent() throws {
        let program = try directory.write(
            "getent",
            "#!/bin/sh\n[ \"$*\" = 'passwd 4711' ] && echo 'ldap:*:4711:100:From a directory:/net/ldap:/bin/sh'\n",
            permissions: 0o755
        )
        let path = try directory.write("passwd", "root:x:0:0::/root:/bin/sh\n")
        let account = Account.find(userID: 4711, in: path, getent: program)
        #expect(account == Account(name: "ldap", userID: 4711, home: "/net/ldap"))
        #expect(Account.find(userID: 4712, in: path, getent: program) == nil)
    }
}
