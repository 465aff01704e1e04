// Go's x/net/http2 as an HBONE peer; Tests/Peers/README.md says what it reads and prints.
//
//	peer client PORT CREDENTIAL
//	peer server CREDENTIAL
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

var output sync.Mutex

func report(event string, values map[string]any) {
	if values == nil {
		values = map[string]any{}
	}
	values["event"] = event
	line, _ := json.Marshal(values)
	output.Lock()
	defer output.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func identity(certificates []*x509.Certificate) string {
	if len(certificates) == 0 || len(certificates[0].URIs) == 0 {
		return ""
	}
	return certificates[0].URIs[0].String()
}

func configuration(directory string) (*tls.Config, *x509.CertPool) {
	pair, err := tls.LoadX509KeyPair(directory+"/cert-chain.pem", directory+"/key.pem")
	check(err)
	roots, err := os.ReadFile(directory + "/root-cert.pem")
	check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2"},
	}, pool
}

// What a stream sends or receives, counted and hashed.
type tally struct {
	count int
	hash  hash.Hash
}

func (t *tally) Write(bytes []byte) (int, error) {
	t.count += len(bytes)
	return t.hash.Write(bytes)
}

func (t *tally) values(name int) map[string]any {
	return map[string]any{"stream": name, "count": t.count, "sha256": hex.EncodeToString(t.hash.Sum(nil))}
}

func newTally() *tally { return &tally{hash: sha256.New()} }

// MARK: Client

type clientStream struct {
	name  int
	abort func()
	work  chan int // bytes to send; closed for the end
}

func client(port, directory string) {
	config, roots := configuration(directory)
	// The name in a mesh certificate is a SPIFFE ID, which crypto/tls does not look at.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots})
		if err == nil && !strings.HasPrefix(identity(state.PeerCertificates), "spiffe://") {
			err = errors.New("the server has no SPIFFE ID")
		}
		return err
	}
	connection, err := tls.Dial("tcp", "127.0.0.1:"+port, config)
	if err != nil {
		report("refused", map[string]any{"reason": err.Error()})
		return
	}
	// Requests beyond the server's limit, which is taken for 100 before its SETTINGS arrive, wait instead of failing.
	transport := &http2.Transport{DisableCompression: true, StrictMaxConcurrentStreams: true}
	session, err := transport.NewClientConn(connection)
	check(err)
	report("connected", map[string]any{"peer": identity(connection.ConnectionState().PeerCertificates)})
	streams := map[string]*clientStream{}
	for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		words := strings.Split(scanner.Text(), " ")
		switch words[0] {
		case "open":
			streams[words[1]] = open(connection, session, words[1], words[2], words[3:])
		case "send":
			count, err := strconv.Atoi(words[2])
			check(err)
			streams[words[1]].work <- count
		case "end":
			close(streams[words[1]].work)
		case "reset":
			// x/net/http2 has one code for this: CANCEL.
			streams[words[1]].abort()
		case "close":
			check(session.Shutdown(context.Background()))
			report("closed", nil)
		}
	}
}

func open(connection *tls.Conn, session *http2.ClientConn, name, authority string, headers []string) *clientStream {
	id, err := strconv.Atoi(name)
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	abort := func() {
		cancel()
		// While it waits for the body, the transport does not look at the context.
		writer.CloseWithError(context.Canceled)
	}
	stream := &clientStream{id, abort, make(chan int, 64)}
	request := &http.Request{
		Method: "CONNECT", Host: authority, URL: &url.URL{Scheme: "https", Host: authority}, Header: http.Header{}, Body: reader,
		ContentLength: -1,
	}
	for _, header := range headers {
		field, value, _ := strings.Cut(header, "=")
		request.Header.Set(field, value)
	}
	go stream.send(writer)
	go func() {
		response, err := session.RoundTrip(request.WithContext(ctx))
		if err != nil && !session.CanTakeNewRequest() && strings.HasSuffix(err.Error(), "not usable") {
			// The connection was over before the request; an alert is told by every further read.
			if _, reason := connection.Read(make([]byte, 1)); reason != nil {
				err = reason
			}
		}
		if err != nil {
			stream.failed(err, 0)
			return
		}
		report("response", map[string]any{"stream": id, "status": response.StatusCode})
		received := newTally()
		if _, err = io.Copy(received, response.Body); err != nil {
			stream.failed(err, received.count)
			return
		}
		report("ended", received.values(id))
	}()
	return stream
}

func (s *clientStream) failed(err error, count int) {
	values := map[string]any{"stream": s.name, "reason": err.Error(), "count": count}
	var stream http2.StreamError
	if errors.As(err, &stream) {
		values["code"] = int(stream.Code)
	}
	report("reset", values)
}

func (s *clientStream) send(body *io.PipeWriter) {
	block := make([]byte, 1000003)
	for index := range block {
		block[index] = byte(index * 31 >> 3)
	}
	sent := newTally()
	for count := range s.work {
		for count > 0 {
			chunk := block[:min(count, len(block))]
			if _, err := body.Write(chunk); err != nil {
				report("stopped", map[string]any{"stream": s.name, "reason": err.Error()})
				return
			}
			sent.Write(chunk)
			count -= len(chunk)
		}
	}
	body.Close()
	report("sent", sent.values(s.name))
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// MARK: Server

// The next answer says "Connection: close", which x/net/http2 turns into GOAWAY. (Server.Shutdown would stop listening, too.)
var drains atomic.Bool

func server(directory string) {
	config, roots := configuration(directory)
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = roots
	web := &http.Server{TLSConfig: config, Handler: http.HandlerFunc(serve)}
	check(http2.ConfigureServer(web, &http2.Server{
		MaxConcurrentStreams: 250, MaxReadFrameSize: 1 << 20,
		MaxUploadBufferPerStream: 1 << 20, MaxUploadBufferPerConnection: 16 << 20,
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	web.ErrorLog = nil
	go web.ServeTLS(listener, "", "")
	report("listening", map[string]any{"port": listener.Addr().(*net.TCPAddr).Port})
	for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		if scanner.Text() == "goaway" {
			drains.Store(true)
		}
	}
}

func serve(writer http.ResponseWriter, request *http.Request) {
	peer := identity(request.TLS.PeerCertificates)
	report("request", map[string]any{"authority": request.Host, "peer": peer})
	if request.Method != "CONNECT" {
		writer.WriteHeader(405)
		return
	}
	if !strings.Contains(peer, "/ns/prod/") {
		writer.WriteHeader(403)
		return
	}
	backend, err := net.DialTimeout("tcp", request.Host, 10*time.Second)
	if err != nil {
		writer.WriteHeader(503)
		return
	}
	defer backend.Close()
	tcp := backend.(*net.TCPConn)
	if drains.CompareAndSwap(true, false) {
		writer.Header().Set("Connection", "close")
	}
	writer.WriteHeader(200)
	writer.(http.Flusher).Flush()
	go func() {
		if _, err := io.Copy(tcp, request.Body); err != nil {
			report("reset", map[string]any{"reason": err.Error()})
			tcp.SetLinger(0)
			tcp.Close()
		} else {
			tcp.CloseWrite()
		}
	}()
	// The end of the backend is the end of the handler, and that of the request: Go has no half-close here.
	if _, err := io.Copy(flushing{writer}, tcp); err != nil {
		// RST_STREAM instead of END_STREAM.
		panic(http.ErrAbortHandler)
	}
}

// A tunnel has no buffer that waits to be full.
type flushing struct{ http.ResponseWriter }

func (f flushing) Write(bytes []byte) (int, error) {
	count, err := f.ResponseWriter.Write(bytes)
	f.ResponseWriter.(http.Flusher).Flush()
	return count, err
}

func main() {
	switch os.Args[1] {
	case "client":
		client(os.Args[2], os.Args[3])
	case "server":
		server(os.Args[2])
	}
}
