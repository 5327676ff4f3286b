#!/bin/sh
# nginx.sh PORT FOLDER: nginx in the foreground, with its files in FOLDER. Two lines are not its
# defaults: keepalive for connections, and room for the thousand idle clients of the contract.
set -e
mkdir -p "$2"
folder=$(cd "$2" && pwd)
cat >"$folder/$1.conf" <<EOF
daemon off;
pid $folder/$1.pid;
error_log stderr;
worker_processes 2;
events { worker_connections 2048; }
http {
    access_log off;
    client_body_temp_path $folder/body; proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi; uwsgi_temp_path $folder/uwsgi; scgi_temp_path $folder/scgi;
    server {
        listen 127.0.0.1:$1 so_keepalive=on;
        location / { return 200 "hello\n"; }
    }
}
EOF
exec nginx -p "$folder" -e stderr -c "$folder/$1.conf"
