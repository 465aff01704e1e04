import HTTP1
import Testing

/// Paths have one spelling, and those that servers read in several ways have none.
@Suite struct HTTPPathTests {
    @Test(arguments: [
        ("/", "/"), ("/a/b", "/a/b"), ("//a///b/", "/a/b/"), ("/%61%2Db%5f%7e", "/a-b_~"), ("/%c3%a4", "/%C3%A4"),
        ("/a%20b", "/a%20b"), ("/a;x=1", "/a;x=1"), ("/...", "/..."), ("/a..b", "/a..b"), ("/%25", "/%25"),
        ("/%252e%252e", "/%252e%252e"), ("/a=b&c", "/a=b&c"),
    ])
    func normalizes(text: String, expected: String) throws {
        let path = try HTTPPath(parsing: text[...])
        #expect(path.description == expected)
        #expect(try HTTPPath(parsing: path.description[...]) == path, "the one spelling is itself")
    }

    @Test(arguments: [
        "", "a", "/%2f", "/%2F", "/a%5cb", "/a\\b", "/%00", "/a%0d%0a", "/%7f", "/..", "/a/../b", "/a/.", "/./a",
        "/%2e%2e/b", "/a/%2E/b", "/.%2e", "/..;/b", "/a/..;x=y/b", "/%2e%2e;/", "/%", "/%4", "/%zz", "/%4g",
    ])
    func refuses(text: String) {
        let error = #expect(throws: HTTPError.self) { try HTTPPath(parsing: text[...]) }
        #expect(error?.status == 400)
    }

    @Test(arguments: [
        ("/v1/x", "/v1", true), ("/v1", "/v1", true), ("/v1/", "/v1", true), ("/v10", "/v1", false),
        ("/v1", "/v1/", true), ("/v1/x", "/v1/", true), ("/", "/v1", false), ("/x", "/", true), ("/", "/", true),
        ("/V1", "/v1", false), ("/v1;a", "/v1", false),
    ])
    func comparesWholeSegments(path: String, prefix: String, begins: Bool) throws {
        #expect(try HTTPPath(parsing: path[...]).begins(with: HTTPPath(parsing: prefix[...])) == begins)
    }
}
