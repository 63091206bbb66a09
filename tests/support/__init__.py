"""What several tests share: servers, ranks as processes, packed sets, run directories, oracles."""
