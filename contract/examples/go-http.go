// An HTTP server on Go's net/http, as its documentation teaches it.
// Documentation: https://pkg.go.dev/net/http#example-ListenAndServe
package main

import (
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(response http.ResponseWriter, _ *http.Request) {
		io.WriteString(response, "hello\n")
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
